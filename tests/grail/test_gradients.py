"""Batched per-example gradients equal one-at-a-time autograd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail.config import UnlearnConfig
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.localise.gradients import (
    corrupt,
    gradient_statistics,
    per_example_gradients,
    set_statistics,
    zscores,
)
from grail.model.adapter import adapter_parameters
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel, ordinary_tokens
from grail.types import Segment
from tests.grail.oracles import example_gradient

lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4)


def make(lengths_of: list[tuple[int, int]], seed: int, model: LoadedModel) -> list[TokenisedExample]:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = ordinary_tokens(model)
    rows = []
    for number, (prompt, completion) in enumerate(lengths_of):
        ids = vocabulary[torch.randint(len(vocabulary), (prompt + completion,), generator=generator)].tolist()
        rows.append(TokenisedExample(str(number), (*ids, model.tokenizer.eos_token_id), prompt))
    return rows


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Iterator[LoadedModel]:
    torch.manual_seed(5)
    for name, parameter in adapter_parameters(tiny_model.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    yield tiny_model


@given(lengths_of=lengths, draws=st.integers(1, 3), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batched_per_example_gradients_equal_one_at_a_time_autograd(
    tiny: LoadedModel, lengths_of: list[tuple[int, int]], draws: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = ordinary_tokens(tiny)
    groups = [[corrupt(e, vocabulary, generator) for _ in range(draws)] for e in make(lengths_of, seed, tiny)]
    found: dict[str, torch.Tensor] = {}
    with per_example_gradients(tiny.model, draws, found.__setitem__):
        batch = pad([row for group in groups for row in group], tiny.pad_id)
        (completion_nll(completion_logits(tiny, batch), batch).sum() / draws).backward()
    for parameter in adapter_parameters(tiny.model).values():
        parameter.grad = None
    assert set(found) == set(adapter_parameters(tiny.model))
    for place, group in enumerate(groups):
        for name, expected in example_gradient(tiny, group).items():
            torch.testing.assert_close(found[name][place], expected, rtol=1e-4, atol=1e-6)


def test_statistics_do_not_depend_on_the_micro_batch(tiny: LoadedModel) -> None:
    rows = make([(3, 8), (2, 5), (5, 9), (1, 4), (4, 4)], 3, tiny)
    several, single = (
        set_statistics(tiny, rows, UnlearnConfig(micro_batch=size), torch.Generator().manual_seed(1))
        for size in (15, 3)
    )
    for one, other, atol in zip(several, single, (1e-9, 1e-7), strict=True):
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-3, atol=atol)


def test_one_pass_gives_the_mean_of_squares_and_the_mean_and_these_are_two_things(tiny: LoadedModel) -> None:
    rows = make([(3, 8), (3, 8)], 11, tiny)
    generator = torch.Generator().manual_seed(2)
    vocabulary = ordinary_tokens(tiny)
    groups = {e.id: [corrupt(e, vocabulary, generator) for _ in range(3)] for e in rows}
    expected = [example_gradient(tiny, groups[e.id]) for e in rows]
    squares, means = set_statistics(tiny, rows, UnlearnConfig(), torch.Generator().manual_seed(2))
    for name, value in squares.items():
        one, other = (each[name] for each in expected)
        torch.testing.assert_close(value, (one**2 + other**2) / 2, rtol=1e-3, atol=1e-10)
        torch.testing.assert_close(means[name], (one + other) / 2, rtol=1e-3, atol=1e-6)


def test_corruption_replaces_at_most_half_and_never_the_eos(tiny: LoadedModel) -> None:
    vocabulary = ordinary_tokens(tiny)
    assert not set(vocabulary.tolist()) & set(tiny.tokenizer.all_special_ids)
    (row,) = make([(4, 9)], 0, tiny)
    for seed in range(50):
        changed = corrupt(row, vocabulary, torch.Generator().manual_seed(seed))
        differs = [i for i, (a, b) in enumerate(zip(row.input_ids, changed.input_ids, strict=True)) if a != b]
        assert len(differs) <= 9 // 2
        assert all(row.prompt_length <= place < len(row.input_ids) - 1 for place in differs)


def test_a_tensor_without_spread_has_no_zscore() -> None:
    assert zscores(torch.full((4, 3), 2.0)).abs().max() == 0
    assert zscores(torch.tensor([[1.0, 2.0, 4.0]])).max() > 1


def test_the_same_seed_gives_the_same_scores_and_leaves_no_gradient(tiny: LoadedModel) -> None:
    sets = {("privacy", Segment.FORGET): make([(3, 8)], 1, tiny), ("privacy", Segment.RETAIN): make([(2, 6)], 2, tiny)}
    first, second = (
        gradient_statistics(tiny, sets, UnlearnConfig(), torch.Generator().manual_seed(9)) for _ in range(2)
    )
    for one, other in ((first.squares, second.squares), (first.means, second.means)):
        for key, tensors in one.items():
            for name, value in tensors.items():
                assert torch.equal(value, other[key][name])
    assert all(parameter.grad is None for parameter in adapter_parameters(tiny.model).values())
