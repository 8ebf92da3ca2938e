"""Every objective against its formula, written out one example and one token at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.catalogue import FORGET, RETAIN, names
from grail.config import UnlearnConfig
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.model.adapter import adapter_off, adapter_parameters, read_state, write_state
from grail.model.forward import completion_logits
from grail.model.load import LoadedModel, ordinary_tokens
from grail.objectives import Objective, Setting, divergence, objective
from grail.objectives.forget import calibrated
from grail.train import teach, unlearn
from grail.types import Segment
from tests.grail.test_gradients import make

LENGTHS = [(3, 8), (2, 5), (4, 1), (1, 6)]


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Iterator[LoadedModel]:
    yield tiny_model


def logprobs(model: LoadedModel, example: TokenisedExample) -> torch.Tensor:
    """(T_c, V) of one example alone."""
    with torch.no_grad():
        return completion_logits(model, pad([example], model.pad_id)).log_softmax(-1)


def own(model: LoadedModel, example: TokenisedExample) -> list[float]:
    """Log-probability of each label token."""
    labels = example.input_ids[example.prompt_length :]
    return [float(row[label]) for row, label in zip(logprobs(model, example), labels, strict=True)]


def moved(model: LoadedModel, seed: int = 3) -> None:
    """Another adapter than the one an objective was made from."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model.model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def made(model: LoadedModel, examples: list[TokenisedExample], kind: str, name: str, **changed: Any) -> Objective:
    chosen = {"objective": name} if kind == FORGET else {"retain_objective": name}
    return objective(kind, name, Setting(model, examples, UnlearnConfig(micro_batch=2, **chosen, **changed)))


def losses(model: LoadedModel, minimise: Objective, examples: list[TokenisedExample]) -> list[float]:
    """One loss an example, computed in one padded batch."""
    return [float(value) for value in minimise(model, pad(examples, model.pad_id)).loss.detach()]


@pytest.mark.parametrize("until", [0.0, 5.0])
def test_ascent_is_minus_the_nll_of_each_token_up_to_where_it_stops(tiny: LoadedModel, until: float) -> None:
    examples = make(LENGTHS, 6, tiny)
    moved(tiny)
    nll = [[-value for value in own(tiny, example)] for example in examples]
    expected = [-sum(min(value, until or value) for value in values) / len(values) for values in nll]
    minimise = made(tiny, examples, FORGET, "ascent", options={"until": until})
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-4)
    assert min(min(values) for values in nll) < 5.0 < max(max(values) for values in nll)


def test_hinge_pushes_only_tokens_that_are_likelier_than_under_the_reference(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 6, tiny)
    minimise = made(tiny, examples, FORGET, "hinge")
    with adapter_off(tiny.model):
        never = [own(tiny, example) for example in examples]
    expected = [
        sum(max(0.0, now - then) for now, then in zip(own(tiny, e), reference, strict=True)) / len(reference)
        for e, reference in zip(examples, never, strict=True)
    ]
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert any(value > 0 for value in expected)
    with adapter_off(tiny.model):
        assert losses(tiny, minimise, examples) == pytest.approx([0.0] * len(examples), abs=1e-6)


def binary_divergence(reference: float, current: float, upward: float) -> float:
    """KL of two coins, from their log-probabilities; weighted where the current one is the lower."""
    q, p = math.exp(reference), math.exp(current)
    weight = 1.0 if p > q else upward
    return weight * (q * (reference - current) + (1 - q) * (math.log1p(-q) - math.log1p(-p)))


@pytest.mark.parametrize("upward", [0.0, 0.2, 1.0])
def test_calibrated_is_the_divergence_of_each_label_from_the_reference_and_zero_there(
    tiny: LoadedModel, upward: float
) -> None:
    examples = make(LENGTHS, 14, tiny)
    moved(tiny)
    minimise = made(tiny, examples, FORGET, "calibrated", options={"upward": upward})
    with adapter_off(tiny.model):
        never = [own(tiny, example) for example in examples]
    expected = [
        sum(binary_divergence(then, now, upward) for now, then in zip(own(tiny, e), reference, strict=True))
        / len(reference)
        for e, reference in zip(examples, never, strict=True)
    ]
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert any(value > 1e-4 for value in expected)
    with adapter_off(tiny.model):
        assert losses(tiny, minimise, examples) == pytest.approx([0.0] * len(examples), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.floats(-80, 80), st.floats(-40, -1e-6))
def test_the_slope_of_calibrated_along_the_log_odds_is_the_difference_of_probabilities(
    odds: float, reference: float
) -> None:
    """Also where a token is known so well that its probability rounds to 1."""
    example = TokenisedExample("one", (0, 1), 1)
    logits = torch.tensor([[odds, 0.0, -math.inf]], requires_grad=True)  # the label first, all else as one
    batch = dataclasses.replace(pad([example], 0), labels=torch.tensor([0]), examples=(example,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated, "completion_logits", lambda *_: logits)
        found = calibrated.LabelDivergence({example: torch.tensor([reference])}, 0.5)(None, batch)  # type: ignore[arg-type]
    found.loss.sum().backward()
    assert logits.grad is not None
    assert float(found.loss.detach()) > -1e-5
    slope = torch.sigmoid(torch.tensor(odds)).item() - math.exp(reference)
    slope *= 1.0 if slope > 0 else 0.5
    assert float(logits.grad[0, 0]) == pytest.approx(slope, abs=1e-5)
    assert float(logits.grad[0, 1]) == pytest.approx(-slope, abs=1e-5)
    assert float(found.nll) == pytest.approx(math.log1p(math.exp(-odds)) if odds > -30 else -odds, rel=1e-4, abs=1e-6)


def test_calibrated_over_the_vocabulary_is_the_whole_divergence(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 15, tiny)
    moved(tiny)
    minimise = made(tiny, examples, FORGET, "calibrated", options={"over": "vocabulary"})
    with adapter_off(tiny.model):
        never = [logprobs(tiny, example) for example in examples]
    expected = [
        float((then.exp() * (then - logprobs(tiny, e))).sum(-1).mean())
        for e, then in zip(examples, never, strict=True)
    ]
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo_is_the_preference_against_the_original_over_whole_completions(tiny: LoadedModel, beta: float) -> None:
    examples = make(LENGTHS, 7, tiny)
    minimise = made(tiny, examples, FORGET, "npo", options={"beta": beta})
    original = [sum(own(tiny, example)) for example in examples]
    assert losses(tiny, minimise, examples) == pytest.approx([2 / beta * math.log(2)] * len(examples), rel=1e-4)
    moved(tiny)
    expected = [
        2 / beta * math.log1p(math.exp(beta * (sum(own(tiny, e)) - then)))
        for e, then in zip(examples, original, strict=True)
    ]
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-3)


def test_simnpo_is_the_preference_on_the_mean_token(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 8, tiny)
    minimise = made(tiny, examples, FORGET, "simnpo", options={"beta": 2.0, "gamma": 0.5})
    means = [sum(own(tiny, e)) / e.completion_length for e in examples]
    expected = [math.log1p(math.exp(2.0 * mean + 0.5)) for mean in means]
    assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-3)


def test_kl_is_zero_at_the_original_and_the_divergence_from_it_elsewhere(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 9, tiny)
    original = [logprobs(tiny, example) for example in examples]
    before = read_state(tiny.model)
    for remembered in (2**20, 0):  # with and without remembering what the original said
        write_state(tiny.model, before)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(divergence, "REMEMBERED_BYTES", remembered)
            minimise = made(tiny, examples, RETAIN, "kl")
        assert losses(tiny, minimise, examples) == pytest.approx([0.0] * len(examples), abs=1e-5)
        moved(tiny)
        now = read_state(tiny.model)
        expected = [
            float((then.exp() * (then - logprobs(tiny, e))).sum(-1).mean())
            for e, then in zip(examples, original, strict=True)
        ]
        assert losses(tiny, minimise, examples) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert all(torch.equal(tensor, now[name]) for name, tensor in read_state(tiny.model).items())


def test_random_labels_are_ordinary_tokens_the_same_each_time_and_others_for_another_seed(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 10, tiny)
    labels = [made(tiny, examples, FORGET, "random_labels", seed=s).labels for s in (1, 1, 2)]  # type: ignore[attr-defined]
    ordinary = set(ordinary_tokens(tiny).tolist())
    for example in examples:
        one, again, other = (found[example] for found in labels)
        assert len(one) == example.completion_length and set(one.tolist()) <= ordinary
        assert torch.equal(one, again) and (len(one) < 4 or not torch.equal(one, other))
    expected = [
        -sum(float(row[label]) for row, label in zip(logprobs(tiny, e), labels[0][e], strict=True))
        / e.completion_length
        for e in examples
    ]
    assert losses(tiny, made(tiny, examples, FORGET, "random_labels", seed=1), examples) == pytest.approx(
        expected, rel=1e-4
    )


def test_adversarial_labels_are_the_originals_best_wrong_tokens(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 11, tiny)
    minimise = made(tiny, examples, FORGET, "adversarial")
    for example in examples:
        rows = logprobs(tiny, example)
        for row, label, wrong in zip(
            rows,
            example.input_ids[example.prompt_length :],
            minimise.labels[example],
            strict=True,  # type: ignore[attr-defined]
        ):
            best = [int(token) for token in row.argsort(descending=True)[:2]]
            assert int(wrong) == (best[1] if best[0] == label else best[0])


@pytest.mark.parametrize("name", names(FORGET))
def test_every_objective_lowers_the_likelihood_of_what_is_to_be_forgotten(tiny: LoadedModel, name: str) -> None:
    examples = make(LENGTHS, 12, tiny)
    teach(tiny, {"a": examples}, UnlearnConfig(steps=25, examples_per_step=8, learning_rate=2e-2))
    before = [sum(own(tiny, example)) for example in examples]
    data = {("a", Segment.FORGET): examples, ("a", Segment.RETAIN): make([(2, 4)], 2, tiny)}
    unlearn(tiny, data, None, UnlearnConfig(objective=name, steps=12, examples_per_step=8, learning_rate=1e-2))
    assert sum(sum(own(tiny, example)) for example in examples) < sum(before) - 1.0


def test_the_logged_nll_is_that_of_the_true_labels_whatever_is_minimised(tiny: LoadedModel) -> None:
    examples = make(LENGTHS, 13, tiny)
    expected = [-sum(own(tiny, e)) / e.completion_length for e in examples]
    for kind in (FORGET, RETAIN):
        for name in names(kind):
            found = made(tiny, examples, kind, name)(tiny, pad(examples, tiny.pad_id))
            assert found.nll.tolist() == pytest.approx(expected, rel=1e-3)
            assert not found.nll.requires_grad
