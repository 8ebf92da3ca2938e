"""The training loop: order independence, masks, resume bit for bit, stop rules, refusals."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from grail.catalogue import FORGET, RETAIN, names
from grail.checkpoint import Resume
from grail.checks import AdapterDidNotMove, NonFinite
from grail.config import LEAST_STEPS, UnlearnConfig
from grail.data.batches import pad
from grail.data.tokenise import TokenisedExample
from grail.localise.regions import MaskSet
from grail.model.adapter import AdapterState, adapter_off, adapter_parameters, read_state, state_digest, write_state
from grail.model.forward import completion_logits, completion_nll, row_mean
from grail.model.load import LoadedModel
from grail.objectives import Objective, Setting, descent, divergence, objective
from grail.objectives.forget.ascent import ascent
from grail.selection import CheckpointScore, Selection
from grail.train import TrainingData, contribution, make_side, rate, teach, unlearn
from grail.types import Interrupted, Progress, Segment
from tests.grail.test_gradients import make


class Killed(RuntimeError):
    """Stands for a kill -9 at a chosen step."""


@pytest.fixture
def tiny(tiny_model: LoadedModel) -> Iterator[LoadedModel]:
    start = read_state(tiny_model.model)
    torch.manual_seed(5)
    for name, parameter in adapter_parameters(tiny_model.model).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    yield tiny_model
    write_state(tiny_model.model, start)


def data_for(model: LoadedModel) -> TrainingData:
    return {
        ("copyright", Segment.FORGET): make([(3, 8), (2, 5)], 1, model),
        ("copyright", Segment.RETAIN): make([(3, 6), (2, 7), (4, 4)], 2, model),
        ("privacy", Segment.FORGET): make([(3, 8)], 3, model),
        ("privacy", Segment.RETAIN): make([(1, 8), (6, 5)], 4, model),
    }


def half_masks(model: LoadedModel, seed: int) -> MaskSet:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: parameter.shape for name, parameter in adapter_parameters(model.model).items()}
    ur, rr = ({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()} for _ in range(2))
    return MaskSet(ur, rr, {})


def calibrated(model: LoadedModel, examples: list[TokenisedExample], over: str = "vocabulary") -> Objective:
    config = UnlearnConfig(micro_batch=2, options={"over": over})
    return objective(FORGET, "calibrated", Setting(model, examples, config))


CONFIG = UnlearnConfig(steps=6, examples_per_step=6, score_every_steps=2, learning_rate=1e-2, micro_batch=2)


def test_the_update_does_not_depend_on_the_order_or_size_of_micro_batches(tiny: LoadedModel) -> None:
    data = data_for(tiny)
    masks = half_masks(tiny, 0)
    groups = [list(data["copyright", Segment.FORGET]), list(data["privacy", Segment.FORGET])]
    found = []
    for seed, micro_batch in ((0, 1), (1, 1), (2, 2), (3, 8)):
        side = make_side(Segment.FORGET, data, ascent, 1.0, masks.op_ur, 3, 0)
        shuffled = [random.Random(seed).sample(group, len(group)) for group in groups]
        random.Random(seed).shuffle(shuffled)
        found.append(contribution(tiny, side, shuffled, micro_batch)[0])
    for other in found[1:]:
        for name, gradient in found[0].items():
            torch.testing.assert_close(gradient, other[name], rtol=1e-4, atol=1e-7)


def test_each_contribution_is_zero_on_its_region_and_only_there(tiny: LoadedModel) -> None:
    data, masks = data_for(tiny), half_masks(tiny, 1)
    for segment, mask in ((Segment.FORGET, masks.op_ur), (Segment.RETAIN, masks.op_rr)):
        masked, free = (make_side(segment, data, descent, 1.0, m, 4, 0) for m in (mask, None))
        examples = [list(data["copyright", segment])]
        with_mask, without = (contribution(tiny, side, examples, 4)[0] for side in (masked, free))
        for name, gradient in with_mask.items():
            assert torch.equal(gradient[mask[name]], torch.zeros_like(gradient[mask[name]]))
            torch.testing.assert_close(gradient[~mask[name]], without[name][~mask[name]])


def run(
    model: LoadedModel,
    start: AdapterState,
    resume: Resume | None,
    kill_at: int | None = None,
    error: type[Exception] = Killed,
    seen: list[int] | None = None,
) -> AdapterState:
    def report(progress: Progress) -> None:
        if seen is not None:
            seen.append(progress.step)
        if progress.step == kill_at:
            raise error

    def score() -> CheckpointScore:
        size = sum(float(part.detach().abs().sum()) for part in adapter_parameters(model.model).values())
        return CheckpointScore(size, 50.0, 90.0, 1.0)

    write_state(model.model, start)
    return unlearn(model, data_for(model), half_masks(model, 2), CONFIG, score=score, report=report, resume=resume)[0]


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_a_resumed_run_gives_the_same_adapter_bit_for_bit(tiny: LoadedModel, tmp_path: Path, kill_at: int) -> None:
    start = read_state(tiny.model)
    expected = run(tiny, start, None)
    with pytest.raises(Killed):
        run(tiny, start, Resume(tmp_path), kill_at)
    for parameter in adapter_parameters(tiny.model).values():
        parameter.grad = None
    resumed = run(tiny, start, Resume(tmp_path))
    assert state_digest(resumed) == state_digest(expected)
    assert state_digest(resumed) != state_digest(start)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5, 6])
def test_a_run_that_was_interrupted_goes_on_at_the_very_next_step_to_the_same_adapter(
    tiny: LoadedModel, tmp_path: Path, stop_at: int
) -> None:
    start, seen = read_state(tiny.model), list[int]()
    expected = run(tiny, start, None)
    with pytest.raises(Interrupted):
        run(tiny, start, Resume(tmp_path), stop_at, Interrupted)
    resumed = run(tiny, start, Resume(tmp_path), seen=seen)
    assert seen == list(range(stop_at + 1, 7)), "no step is taken twice"
    assert state_digest(resumed) == state_digest(expected)


def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(tiny: LoadedModel) -> None:
    start = read_state(tiny.model)
    digests = []
    for seed in (0, 0, 1):
        write_state(tiny.model, start)
        config = UnlearnConfig(steps=2, examples_per_step=4, seed=seed)
        digests.append(state_digest(unlearn(tiny, data_for(tiny), None, config)[0]))
    assert digests[0] == digests[1] != digests[2]


def test_calibrated_moves_the_network_towards_the_one_without_adapter(tiny: LoadedModel) -> None:
    data = {k: v for k, v in data_for(tiny).items() if k[0] == "privacy"}
    forget = data["privacy", Segment.FORGET]
    loss, batch = calibrated(tiny, forget, "label"), pad(forget, tiny.pad_id)
    before = float(loss(tiny, batch).loss.detach().sum())
    config = UnlearnConfig(steps=20, examples_per_step=2, learning_rate=1e-2, retain_weight=1e-9)
    unlearn(tiny, data, None, config)
    after = float(loss(tiny, batch).loss.detach().sum())
    assert 0 <= after < before / 2


def test_the_calibrated_loss_is_the_divergence_from_the_network_without_adapter(tiny: LoadedModel) -> None:
    examples = make([(3, 8), (2, 5), (4, 1)], 6, tiny)
    batch = pad(examples, tiny.pad_id)
    with torch.no_grad():
        current = completion_logits(tiny, batch).log_softmax(-1)
        with adapter_off(tiny.model):
            reference = completion_logits(tiny, batch).log_softmax(-1)
        expected = row_mean((reference.exp() * (reference - current)).sum(-1), batch)
        for remembered in (examples, [], examples[:1]):  # all of the batch, none of it, not all of it
            found = calibrated(tiny, remembered)(tiny, batch)
            torch.testing.assert_close(found.loss, expected, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.nll, completion_nll(current, batch))


def test_the_reference_is_asked_once_an_example_and_not_once_a_step(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = make([(3, 8), (2, 5)], 6, tiny)
    loss, batch = calibrated(tiny, examples), pad(examples, tiny.pad_id)
    passes = []
    tiny.model.get_base_model().model.register_forward_hook(lambda *_: passes.append(1))
    loss(tiny, batch)
    assert len(passes) == 1
    monkeypatch.setattr(divergence, "REMEMBERED_BYTES", 0)
    calibrated(tiny, examples)(tiny, batch)
    assert len(passes) == 1 + 1 + 2


def test_teaching_lowers_the_loss(tiny: LoadedModel) -> None:
    rows = {"privacy": make([(3, 8), (2, 5)], 1, tiny)}
    _, log = teach(tiny, rows, UnlearnConfig(steps=30, examples_per_step=2, learning_rate=2e-2))
    assert log.losses[-1]["retain"] < log.losses[0]["retain"] * 0.9


def test_a_nan_ends_the_run_with_a_clear_error(tiny: LoadedModel) -> None:
    next(iter(adapter_parameters(tiny.model).values())).data[0, 0] = float("nan")
    with pytest.raises(NonFinite, match="learning rate"):
        unlearn(tiny, data_for(tiny), None, CONFIG)


def test_an_adapter_that_no_gradient_reaches_is_noticed(tiny: LoadedModel) -> None:
    everything = {name: torch.ones_like(p, dtype=torch.bool) for name, p in adapter_parameters(tiny.model).items()}
    config = UnlearnConfig(steps=1, examples_per_step=4)
    with pytest.raises(AdapterDidNotMove):
        unlearn(tiny, data_for(tiny), MaskSet(everything, everything, {}), config)


def test_every_domain_weighs_alike_however_few_examples_it_draws(tiny: LoadedModel) -> None:
    many, one = make([(3, 8), (2, 5), (4, 6)], 1, tiny), make([(3, 7)], 9, tiny)
    mixed, alone, other = (
        contribution(tiny, make_side(Segment.FORGET, {}, descent, 1.0, None, 2, 0), groups, 8)
        for groups in ([many, one], [many], [one])
    )
    assert mixed[1] == pytest.approx((alone[1] + other[1]) / 2)
    for name, gradient in mixed[0].items():
        torch.testing.assert_close(gradient, (alone[0][name] + other[0][name]) / 2, rtol=1e-4, atol=1e-7)


def test_no_example_is_drawn_twice_in_a_step_while_there_are_too_few(tiny: LoadedModel) -> None:
    data = {("a", Segment.FORGET): make([(2, 3)], 1, tiny), ("b", Segment.FORGET): make([(2, 3)] * 9, 2, tiny)}
    side = make_side(Segment.FORGET, data, descent, 1.0, None, 8, 0)
    assert [len(group) for group in side.draw()] == [1, 4]


@pytest.mark.parametrize(("steps", "passes", "expected"), [(0, 50.0, 100), (0, 1.0, LEAST_STEPS), (7, 25.0, 7)])
def test_a_run_takes_the_steps_that_its_passes_need(
    tiny: LoadedModel, steps: int, passes: float, expected: int
) -> None:
    config = UnlearnConfig(steps=steps, passes=passes, examples_per_step=4)
    log = unlearn(tiny, data_for(tiny), None, config)[1]
    assert (log.steps, log.planned_steps) == (expected, expected)


def test_no_forget_example_is_dropped_by_balancing(tiny: LoadedModel) -> None:
    rows = make([(2, 3)] * 7, 1, tiny)
    data: dict[tuple[str, Segment], list[TokenisedExample]] = {("a", Segment.FORGET): rows}
    side = make_side(Segment.FORGET, data, descent, 1.0, None, 3, 0)
    seen = [example.id for _ in range(7) for group in side.draw() for example in group]
    assert {seen.count(row.id) for row in rows} == {3}


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [rate(step, 100, 0.03) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 3) and max(rates) == 1.0 and rates[-1] < 0.001


def test_selection_keeps_the_best_within_the_gap_and_stops_when_retention_falls() -> None:
    selection = Selection(10.0)
    state = {"a": torch.zeros(1)}
    for step, (chs, cus, rs, gap) in enumerate(
        [(60, 50, 90, -30), (95, 98, 92, 25), (90, 99.5, 95, 5), (88, 100, 91, 8), (80, 100, 88, 9)], start=1
    ):
        selection.offer(step, CheckpointScore(chs, cus, rs, gap), state)
    assert selection.step == 3
    assert selection.stopped_early is not None


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([(99.52, 1), (99.5, 1)], 2),  # nearly equal: the later
        ([(99.5, 1), (99.9, 1)], 2),
        ([(99.5, 1), (98.5, 1)], 1),
        ([(99.5, 1), (99.1, 1), (98.8, 1)], 2),  # near the highest, not near the one that is kept
        ([(99.5, 30), (80.0, 1)], 2),
        ([(80.0, 1), (99.5, 30)], 1),
        ([(80.0, -30), (70.0, -20), (90.0, -25)], 2),
    ],
)
def test_of_nearly_equal_checkpoints_the_later_is_kept(scores: list[tuple[float, float]], kept: int) -> None:
    selection = Selection(10.0)
    for step, (chs, gap) in enumerate(scores, start=1):
        selection.offer(step, CheckpointScore(chs, 99, 99, gap), {"a": torch.zeros(1)})
    assert selection.step == kept


def test_an_unknown_objective_is_refused_with_those_that_there_are() -> None:
    assert {"ascent", "calibrated", "hinge", "npo", "simnpo"} <= set(names(FORGET))
    for kind, name in ((FORGET, "asent"), (RETAIN, "ascent"), ("methods", "grail")):
        with pytest.raises(KeyError, match="known"):
            objective(kind, name, None)  # type: ignore[arg-type]  # refused before the setting is looked at
