"""The one loop: contribution = gradient of one segment's micro-batches x its mask; add; clip; step; score; checkpoint.

Masks are applied to each segment's contribution and never to the sum, so the order of micro-batches inside a step does
not matter (to float tolerance); only `published`, kept to compare with, does as the published code did. A non-finite
loss or gradient ends the run; the adapter on disk was never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from grail import checks
from grail.catalogue import FORGET, RETAIN
from grail.checkpoint import Resume, load_resume, save_resume
from grail.checks import NonFinite
from grail.config import GENERAL, UnlearnConfig
from grail.data.batches import Cycle, by_length, pad, shares
from grail.data.tokenise import TokenisedExample
from grail.localise.regions import Masks, MaskSet
from grail.model.adapter import AdapterState, adapter_parameters, read_state, write_state
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, Setting, descent, objective
from grail.selection import CheckpointScore, Selection
from grail.types import Domain, Interrupted, Progress, Report, Segment, ignore_progress

Gradients = dict[str, torch.Tensor]
TrainingData = Mapping[tuple[Domain, Segment], Sequence[TokenisedExample]]
Scorer = Callable[[], CheckpointScore]
"""Scores the live model; passed in by the caller, so that this module knows no metric."""


@dataclass(frozen=True, slots=True)
class TrainLog:
    """What happened: `steps` taken of `planned_steps`, `losses` per step (mean NLL in nats, per segment), `checkpoints`
    scored, which one was kept."""

    steps: int
    kept_step: int
    stopped_early: str | None
    losses: list[dict[str, float]] = field(repr=False)
    checkpoints: list[dict[str, float]] = field(repr=False)
    planned_steps: int


def joined(logs: Sequence[TrainLog]) -> TrainLog:
    """The logs of runs in turn as one: steps go on counting, the checkpoint that was kept is the last run's."""
    whole = logs[0]
    for log in logs[1:]:
        done = whole.steps
        whole = TrainLog(
            done + log.steps,
            done + log.kept_step,
            log.stopped_early or whole.stopped_early,
            whole.losses + [{**row, "step": done + row["step"]} for row in log.losses],
            whole.checkpoints + [{**row, "step": done + row["step"]} for row in log.checkpoints],
            whole.planned_steps + log.planned_steps,
        )
    return whole


@dataclass(slots=True)
class Side:
    """One segment's part of each step: what is drawn, what is minimised, with which weight, masked by what."""

    segment: Segment
    pools: dict[Domain, list[TokenisedExample]]
    cycles: dict[Domain, Cycle]
    minimise: Objective
    weight: float
    mask: Masks | None
    per_step: int

    def draw(self) -> list[list[TokenisedExample]]:
        """This step's examples, one list a domain, domains balanced; no more of a domain than it has."""
        split = shares(self.per_step, len(self.pools))
        return [
            [self.pools[domain][index] for index in self.cycles[domain].take(min(count, len(self.pools[domain])))]
            for domain, count in zip(self.pools, split, strict=True)
            if count
        ]


def make_side(
    segment: Segment,
    data: TrainingData,
    minimise: Objective,
    weight: float,
    mask: Masks | None,
    per_step: int,
    seed: int,
) -> Side:
    """A side over every domain that has examples of `segment`; each cycle has its own generator, seeded apart."""
    pools = {d: list(data[d, s]) for d, s in sorted(data) if s is segment and data[d, s]}
    cycles = {
        domain: Cycle(len(pool), torch.Generator().manual_seed(seed * 1009 + place * 2 + (segment is Segment.RETAIN)))
        for place, (domain, pool) in enumerate(pools.items())
    }
    return Side(segment, pools, cycles, minimise, weight, mask, max(per_step, len(pools)))


def rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the full learning rate at `step` (0-based): linear warm-up, then cosine to 0."""
    warmup = max(1, math.ceil(warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def backward(model: LoadedModel, side: Side, groups: Sequence[Sequence[TokenisedExample]], micro_batch: int) -> float:
    """Add to each parameter's `.grad` that of weight x the mean over domains of their examples' mean loss; returns the
    mean NLL weighted alike. `groups` holds one list a domain.

    A micro-batch holds one segment; domains may share one, since masks are per segment and the gradient of a sum does
    not ask where its parts stood. Raises NonFinite.
    """
    return sum(_backward(model, side, *part) for part in weighted_chunks(groups, micro_batch))


def _backward(model: LoadedModel, side: Side, chunk: Sequence[TokenisedExample], weights: Sequence[float]) -> float:
    rows = side.minimise(model, pad(chunk, model.pad_id, model.device))
    if not torch.isfinite(rows.loss).all():
        raise NonFinite(f"the {side.segment} loss is not finite: lower the learning rate or check the adapter")
    each = torch.tensor(weights, device=rows.loss.device)  # (B,)
    (side.weight * (rows.loss * each).sum()).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return float((rows.nll * each).sum())


def contribution(
    model: LoadedModel, side: Side, groups: Sequence[Sequence[TokenisedExample]], micro_batch: int
) -> tuple[Gradients, float]:
    """One side's masked gradient and mean NLL (see `backward`). Leaves `.grad` empty. Raises NonFinite."""
    parameters = adapter_parameters(model.model)
    nll = backward(model, side, groups, micro_batch)
    gradients = {}
    for name, parameter in parameters.items():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        gradients[name] = masked(gradient, name, side.mask)
        parameter.grad = None
    return gradients, nll


def masked(gradient: torch.Tensor, name: str, mask: Masks | None) -> torch.Tensor:
    """The gradient with zeros on its region."""
    return gradient if mask is None else gradient.masked_fill(mask[name].to(gradient.device), 0.0)


def weighted_chunks(
    groups: Sequence[Sequence[TokenisedExample]], micro_batch: int
) -> Iterator[tuple[list[TokenisedExample], list[float]]]:
    """Micro-batches of similar length over all groups, each row with its weight; the weights of a group sum to
    1 / groups."""
    weights: dict[TokenisedExample, list[float]] = {}
    for group in groups:
        for example in group:
            weights.setdefault(example, []).append(1.0 / (len(groups) * len(group)))
    for chunk in by_length([example for group in groups for example in group], micro_batch):
        yield chunk, [weights[example].pop() for example in chunk]


def by_contribution(
    model: LoadedModel, sides: Sequence[Side], config: UnlearnConfig
) -> tuple[Gradients, dict[str, float]]:
    """The sum of all sides' masked contributions, and each side's mean NLL."""
    losses: dict[str, float] = {}
    total = {name: torch.zeros_like(parameter) for name, parameter in adapter_parameters(model.model).items()}
    for side in sides:
        gradients, losses[str(side.segment)] = contribution(model, side, side.draw(), config.micro_batch)
        for name, gradient in gradients.items():
            total[name] += gradient
    return total, losses


def as_published(
    model: LoadedModel, sides: Sequence[Side], config: UnlearnConfig, order: torch.Generator
) -> tuple[Gradients, dict[str, float]]:
    """What the published code computes: rows of both segments in a random order, the gradient ACCUMULATED so far masked
    after each by its segment's mask. Kept to show what that costs; see docs/adr/0009.

    Rows of one segment that follow each other share a pass: zeroing the same entries once or after each is the same.
    """
    losses = {str(side.segment): 0.0 for side in sides}
    rows = [(side, *row) for side in sides for row in _weighted_rows(side.draw())]
    parameters = adapter_parameters(model.model)
    shuffled = [rows[index] for index in torch.randperm(len(rows), generator=order).tolist()]
    for segment, run in groupby(shuffled, key=lambda row: row[0].segment):
        members = list(run)
        side = members[0][0]
        for start in range(0, len(members), config.micro_batch):
            part = members[start : start + config.micro_batch]
            losses[str(segment)] += _backward(model, side, [row[1] for row in part], [row[2] for row in part])
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                parameter.grad = masked(parameter.grad, name, side.mask)
    total = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in parameters.items()}
    return total, losses


def _weighted_rows(groups: Sequence[Sequence[TokenisedExample]]) -> Iterator[tuple[TokenisedExample, float]]:
    return ((chunk[0], weights[0]) for chunk, weights in weighted_chunks(groups, 1))


def take_step(
    model: LoadedModel, sides: Sequence[Side], optimiser: torch.optim.Optimizer, config: UnlearnConfig, step: int
) -> dict[str, float]:
    """One optimiser step (`step` counts from 0) over all sides; returns each side's mean NLL. Raises NonFinite."""
    parameters = adapter_parameters(model.model)
    if config.mask_rule == "published":
        order = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        total, losses = as_published(model, sides, config, order)
    else:
        total, losses = by_contribution(model, sides, config)
    for name, parameter in parameters.items():
        parameter.grad = total[name]
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.max_gradient_norm)
    if not torch.isfinite(norm):
        raise NonFinite("the gradient is not finite: lower the learning rate or check the adapter")
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return losses


def check_attached(model: LoadedModel, example: TokenisedExample) -> None:
    """One backward pass of plain descent (an objective's own gradient may rightly be 0 at the start). Raises
    AdapterDetached."""
    loss = descent(model, pad([example], model.pad_id, model.device)).loss
    if loss.requires_grad:
        loss.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    try:
        checks.attached(adapter_parameters(model.model))
    finally:
        model.model.zero_grad(set_to_none=True)


def fit(
    model: LoadedModel,
    sides: Sequence[Side],
    config: UnlearnConfig,
    *,
    stage: str,
    masks: MaskSet | None = None,
    score: Scorer | None = None,
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> TrainLog:
    """Run the steps that the first side's examples ask for (`config.planned_steps`) from the model's present adapter
    and leave the selected checkpoint in it.

    With `resume`, goes on from its directory's checkpoint when there is one (bit for bit as if never interrupted) and
    writes one at each scoring, and where `report` raises Interrupted. `masks` are those of the sides, for the check
    that they held. Raises NonFinite, AdapterDetached, AdapterDidNotMove, MaskBroken.
    """
    parameters = adapter_parameters(model.model)
    check_attached(model, next(iter(sides[0].pools.values()))[0])
    start = read_state(model.model)
    steps = config.planned_steps([len(pool) for pool in sides[0].pools.values()])
    optimiser = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=0.0)
    selection = Selection(config.max_forget_gap)
    losses: list[dict[str, float]] = []
    done = load_resume(resume, parameters, optimiser, sides, selection, losses) if resume else 0
    while done < steps and selection.stopped_early is None:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(done, steps, config.warmup_share)
        step_losses = take_step(model, sides, optimiser, config, done)
        done += 1
        losses.append({"step": done, **{name: round(value, 6) for name, value in step_losses.items()}})
        if done % config.score_every_steps == 0 or done == steps:
            state = read_state(model.model)
            checks.kept(start, state, masks, config.mask_rule)
            if score is not None:
                selection.offer(done, score(), state)
            if resume:
                save_resume(resume, done, parameters, optimiser, sides, selection, losses)
        try:
            report(Progress(stage, done / steps, done, steps, step_losses))
        except Interrupted:
            if resume:
                save_resume(resume, done, parameters, optimiser, sides, selection, losses)
            raise
    if selection.state is not None:
        write_state(model.model, selection.state)
    if not (resume and resume.found):
        checks.moved(start, read_state(model.model))
    return TrainLog(done, selection.step or done, selection.stopped_early, losses, selection.history, steps)


def unlearn(
    model: LoadedModel,
    data: TrainingData,
    masks: MaskSet | None,
    config: UnlearnConfig,
    *,
    score: Scorer | None = None,
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> tuple[AdapterState, TrainLog]:
    """Masked unlearning: one side for each segment that the settings train, with the mask that the rule gives it.

    Forget and retain are balanced 1:1 and domains evenly, by repeating the smaller set; a method that retains nothing
    fills its steps with forget examples. `conditioned` and `published` keep the forget side off OP-UR and the retain
    side off OP-RR, `frozen` both off both. Raises ValueError for a side without examples, and what `fit` raises.
    """
    forget_rows = config.forget_examples_per_step
    retain_rows = config.examples_per_step - forget_rows
    op_ur, op_rr = (masks.op_ur, masks.op_rr) if masks else (None, None)
    if masks and config.mask_rule == "frozen":
        op_ur = op_rr = {name: mask | masks.op_rr[name] for name, mask in masks.op_ur.items()}
    sides = []
    for segment, kind, name, weight, mask, rows in (
        (Segment.FORGET, FORGET, config.objective, config.forget_weight, op_ur, forget_rows),
        (Segment.RETAIN, RETAIN, config.retain_objective, config.retain_weight, op_rr, retain_rows),
    ):
        seen = {key: part for key, part in data.items() if key[1] is segment and trains(key, config)}
        examples = [example for key in sorted(seen) for example in seen[key]]
        if not rows:
            continue
        if not examples:
            raise ValueError(f"unlearning with the method {config.method} needs at least one {segment} example")
        minimise = objective(kind, name, Setting(model, examples, config))
        sides.append(make_side(segment, seen, minimise, weight, mask, rows, config.seed))
    log = fit(model, sides, config, stage="unlearn", masks=masks, score=score, report=report, resume=resume)
    return read_state(model.model), log


def trains(key: tuple[Domain, Segment], config: UnlearnConfig) -> bool:
    """Whether a set is trained on: general data in the domains' place where the method retains that, else never."""
    domain, segment = key
    return segment is Segment.FORGET or (domain == GENERAL) is (config.retain_source == "general")


def teach(
    model: LoadedModel,
    examples: Mapping[Domain, Sequence[TokenisedExample]],
    config: UnlearnConfig,
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> tuple[AdapterState, TrainLog]:
    """Plain descent on every example: how a starting adapter or a retain-only reference adapter is made."""
    data = {(domain, Segment.RETAIN): list(rows) for domain, rows in examples.items()}
    side = make_side(Segment.RETAIN, data, descent, 1.0, None, config.examples_per_step, config.seed)
    log = fit(model, [side], config, stage="teach", report=report, resume=resume)
    return read_state(model.model), log
