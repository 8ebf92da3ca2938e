"""What each mask rule promises: conditioned, frozen, published; and the checks that watch over it while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grail import checks
from grail.checkpoint import FILE, Resume
from grail.checks import AdapterDetached, MaskBroken
from grail.config import MASK_RULES, UnlearnConfig
from grail.data.batches import pad
from grail.localise.regions import MaskSet
from grail.model.adapter import AdapterState, adapter_parameters, read_state, state_digest, write_state
from grail.model.load import LoadedModel
from grail.objectives import descent
from grail.objectives.forget.ascent import ascent
from grail.selection import CheckpointScore
from grail.train import as_published, check_attached, make_side, unlearn
from grail.types import Progress, Segment
from tests.grail.test_gradients import make
from tests.grail.test_train import Killed, data_for, half_masks

CONFIG = UnlearnConfig(steps=6, examples_per_step=6, score_every_steps=2, learning_rate=1e-2, micro_batch=2)
fixtures = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Iterator[LoadedModel]:
    yield tiny_model


def run(model: LoadedModel, start: AdapterState, config: UnlearnConfig, seed: int = 2, **more: object) -> AdapterState:
    write_state(model.model, start)
    return unlearn(model, data_for(model), half_masks(model, seed), config, **more)[0]  # type: ignore[arg-type]


@given(steps=st.integers(1, 9), micro_batch=st.sampled_from([1, 4, 16]), seed=st.integers(0, 99))
@fixtures
def test_frozen_entries_are_bit_identical_after_any_number_of_steps_and_any_accumulation(
    tiny: LoadedModel, steps: int, micro_batch: int, seed: int
) -> None:
    start = read_state(tiny.model)
    config = replace(CONFIG, mask_rule="frozen", steps=steps, examples_per_step=16, micro_batch=micro_batch)
    state, masks = run(tiny, start, config, seed), half_masks(tiny, seed)
    write_state(tiny.model, start)
    for name, tensor in state.items():
        still = masks.op_ur[name] | masks.op_rr[name]
        assert torch.equal(tensor[still], start[name][still])
    assert any(not torch.equal(state[name], start[name]) for name in start)


@pytest.mark.parametrize("rule", MASK_RULES)
@pytest.mark.parametrize("kill_at", [1, 2, 3, 4, 5])
def test_a_run_resumed_from_any_checkpoint_gives_the_same_adapter_bit_for_bit(
    tiny: LoadedModel, tmp_path: Path, rule: str, kill_at: int
) -> None:
    start, config = read_state(tiny.model), replace(CONFIG, mask_rule=rule, score_every_steps=1)

    def report(progress: Progress) -> None:
        if progress.step == kill_at:
            raise Killed

    def score() -> CheckpointScore:
        return CheckpointScore(50.0, 50.0, 90.0, 1.0)

    expected = run(tiny, start, config, score=score)
    with pytest.raises(Killed):
        run(tiny, start, config, score=score, report=report, resume=Resume(tmp_path))
    assert (tmp_path / FILE).exists(), "a step is told of once it is kept"
    assert state_digest(run(tiny, start, config, score=score, resume=Resume(tmp_path))) == state_digest(expected)
    masks = half_masks(tiny, 2)
    for name, tensor in expected.items():
        both = masks.op_ur[name] & masks.op_rr[name]
        assert torch.equal(tensor[both], start[name][both])


@given(seed=st.integers(0, 200), micro_batch=st.sampled_from([1, 2, 8]))
@fixtures
def test_published_masking_equals_the_published_loop_row_by_row(tiny: LoadedModel, seed: int, micro_batch: int) -> None:
    """The oracle: batch 1, the accumulated gradient masked after every row, in the same order."""
    masks, config = half_masks(tiny, seed), replace(CONFIG, mask_rule="published", micro_batch=micro_batch)
    data = {key: rows for key, rows in data_for(tiny).items() if key[0] == "copyright"}
    sides = [
        make_side(segment, data, minimise, weight, mask, 3, seed)
        for segment, minimise, weight, mask in (
            (Segment.FORGET, ascent, 0.4, masks.op_ur), (Segment.RETAIN, descent, 2.0, masks.op_rr),
        )
    ]  # fmt: skip
    found, _ = as_published(tiny, sides, config, torch.Generator().manual_seed(seed))
    tiny.model.zero_grad(set_to_none=True)
    rows = []
    for side in (make_side(side.segment, data, side.minimise, side.weight, side.mask, 3, seed) for side in sides):
        (group,) = side.draw()
        ordered = sorted(group, key=lambda example: (len(example.input_ids), example.id))
        rows += [(side, example, 1.0 / len(group)) for example in ordered]
    accumulated = {name: torch.zeros_like(p) for name, p in adapter_parameters(tiny.model).items()}
    for place in torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist():
        side, example, share = rows[place]
        (side.weight * share * side.minimise(tiny, pad([example], tiny.pad_id)).loss.sum()).backward()
        for name, parameter in adapter_parameters(tiny.model).items():
            assert parameter.grad is not None and side.mask is not None
            accumulated[name] = (accumulated[name] + parameter.grad).masked_fill(side.mask[name], 0.0)
            parameter.grad = None
    for name, gradient in accumulated.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_published_masking_depends_on_the_order_of_rows(tiny: LoadedModel) -> None:
    """The fault that the rule is kept to show; that `conditioned` has none of it is shown in test_train."""
    masks, data = half_masks(tiny, 3), data_for(tiny)
    found = []
    for order in range(3):
        sides = [
            make_side(segment, data, descent, 1.0, mask, 8, 0)
            for segment, mask in ((Segment.FORGET, masks.op_ur), (Segment.RETAIN, masks.op_rr))
        ]
        total, _ = as_published(tiny, sides, CONFIG, torch.Generator().manual_seed(order))
        found.append(torch.cat([gradient.flatten() for gradient in total.values()]))
        tiny.model.zero_grad(set_to_none=True)
    assert float((found[0] - found[1]).norm() / found[0].norm()) > 0.1


def test_zero_gradients_alone_do_not_freeze_an_entry_that_adam_has_moved() -> None:
    """Why frozen entries never get a gradient at all, from the first step on: moments go on moving what had one."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.AdamW([weight], lr=0.1, weight_decay=0.0)
    for gradient in (1.0, 0.0):
        before = float(weight.detach())
        weight.grad = torch.tensor([gradient])
        optimiser.step()
        assert float(weight.detach()) != before


def test_a_protected_entry_that_changed_ends_the_run() -> None:
    start = {"t": torch.zeros(2, 2)}
    ur, rr = {"t": torch.tensor([[True, False], [True, False]])}, {"t": torch.tensor([[True, True], [False, False]])}
    masks = MaskSet(ur, rr, {})
    both, one, free = (torch.tensor(values) for values in ([[1.0, 0], [0, 0]], [[0, 1.0], [0, 0]], [[0, 0], [0, 1.0]]))
    for rule in MASK_RULES:
        checks.kept(start, {"t": free}, masks, rule)
        with pytest.raises(MaskBroken, match=f"entries of t changed that the mask rule {rule} protects"):
            checks.kept(start, {"t": both}, masks, rule)
    with pytest.raises(MaskBroken):
        checks.kept(start, {"t": one}, masks, "frozen")
    checks.kept(start, {"t": one}, masks, "conditioned")
    checks.kept(start, {"t": both}, None, "frozen")


def test_an_adapter_that_is_cut_off_is_noticed_before_the_first_step(tiny: LoadedModel) -> None:
    (example,) = make([(3, 4)], 1, tiny)
    check_attached(tiny, example)
    assert all(parameter.grad is None for parameter in adapter_parameters(tiny.model).values())
    layers = tiny.model.get_base_model().model.layers
    handle = layers[0].register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(AdapterDetached, match=r"14 of 28 adapter tensors got no gradient .*layers\.0"):
        check_attached(tiny, example)
    layers[1].register_forward_hook(lambda _, __, output: output.detach())
    with pytest.raises(AdapterDetached, match="28 of 28"):
        unlearn(tiny, data_for(tiny), None, CONFIG)
    handle.remove()


def test_an_adapter_whose_gradients_are_all_zero_counts_as_cut_off(tiny: LoadedModel) -> None:
    for parameter in adapter_parameters(tiny.model).values():
        parameter.register_hook(torch.zeros_like)
    with pytest.raises(AdapterDetached, match="all of 28"):
        unlearn(tiny, data_for(tiny), None, CONFIG)
