"""The one loop: contribution = gradient of one segment's micro-batches x its mask; add; clip; step; score; checkpoint.

Masks are applied to each segment's contribution and never to the sum, so the order of micro-batches inside a step does
not matter (to float tolerance). A non-finite loss or gradient ends the run; the adapter on disk was never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from grail.checkpoint import Resume, load_resume, save_resume
from grail.config import UnlearnConfig
from grail.data.batches import Cycle, by_length, pad, shares
from grail.data.tokenise import TokenisedExample
from grail.localise.regions import Masks, MaskSet
from grail.methods.base import Objective, descent, objective
from grail.model.adapter import AdapterState, adapter_parameters, read_state, write_state
from grail.model.load import LoadedModel
from grail.selection import CheckpointScore, Selection
from grail.types import Domain, Progress, Report, Segment, ignore_progress

TrainingData = Mapping[tuple[Domain, Segment], Sequence[TokenisedExample]]
Scorer = Callable[[], CheckpointScore]
"""Scores the live model; passed in by the caller, so that this module knows no metric."""


class NonFinite(FloatingPointError):
    """A loss or gradient became NaN or infinite; the run has ended and nothing was published."""


class AdapterDidNotMove(RuntimeError):
    """Training left every adapter weight as it was: the gradient never reached the adapter."""


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


def contribution(
    model: LoadedModel, side: Side, groups: Sequence[Sequence[TokenisedExample]], micro_batch: int
) -> tuple[dict[str, torch.Tensor], float]:
    """One side's masked gradient of weight x the mean over domains of their examples' mean loss, and the mean NLL
    weighted alike. `groups` holds one list a domain.

    A micro-batch holds one segment; domains may share one, since masks are per segment and the gradient of a sum does
    not ask where its parts stood. Leaves `.grad` empty. Raises NonFinite.
    """
    parameters = adapter_parameters(model.model)
    nll = 0.0
    for chunk, weights in weighted_chunks(groups, micro_batch):
        rows = side.minimise(model, pad(chunk, model.pad_id, model.device))
        if not torch.isfinite(rows.loss).all():
            raise NonFinite(f"the {side.segment} loss is not finite: lower the learning rate or check the adapter")
        each = torch.tensor(weights, device=rows.loss.device)  # (B,)
        (side.weight * (rows.loss * each).sum()).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nll += float((rows.nll * each).sum())
    gradients = {}
    for name, parameter in parameters.items():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        gradients[name] = (
            gradient if side.mask is None else gradient.masked_fill(side.mask[name].to(gradient.device), 0.0)
        )
        parameter.grad = None
    return gradients, nll


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


def take_step(
    model: LoadedModel, sides: Sequence[Side], optimiser: torch.optim.Optimizer, config: UnlearnConfig
) -> dict[str, float]:
    """One optimiser step over all sides; returns each side's mean NLL. Raises NonFinite."""
    parameters = adapter_parameters(model.model)
    losses: dict[str, float] = {}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for side in sides:
        gradients, losses[str(side.segment)] = contribution(model, side, side.draw(), config.micro_batch)
        for name, gradient in gradients.items():
            total[name] += gradient
    for name, parameter in parameters.items():
        parameter.grad = total[name]
    norm = torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.max_gradient_norm)
    if not torch.isfinite(norm):
        raise NonFinite("the gradient is not finite: lower the learning rate or check the adapter")
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return losses


def fit(
    model: LoadedModel,
    sides: Sequence[Side],
    config: UnlearnConfig,
    *,
    stage: str,
    score: Scorer | None = None,
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> TrainLog:
    """Run the steps that the first side's examples ask for (`config.planned_steps`) from the model's present adapter
    and leave the selected checkpoint in it.

    With `resume`, goes on from its directory's checkpoint when there is one (bit for bit as if never interrupted) and
    writes one at each scoring. Raises NonFinite, AdapterDidNotMove.
    """
    parameters = adapter_parameters(model.model)
    start = read_state(model.model)
    steps = config.planned_steps([len(pool) for pool in sides[0].pools.values()])
    optimiser = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=0.0)
    selection = Selection(config.max_forget_gap)
    losses: list[dict[str, float]] = []
    done = load_resume(resume, parameters, optimiser, sides, selection, losses) if resume else 0
    while done < steps and selection.stopped_early is None:
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * rate(done, steps, config.warmup_share)
        step_losses = take_step(model, sides, optimiser, config)
        done += 1
        losses.append({"step": done, **{name: round(value, 6) for name, value in step_losses.items()}})
        report(Progress(stage, done / steps, done, steps, step_losses))
        if done % config.score_every_steps == 0 or done == steps:
            if score is not None:
                selection.offer(done, score(), read_state(model.model))
            if resume:
                save_resume(resume, done, parameters, optimiser, sides, selection, losses)
    if selection.state is not None:
        write_state(model.model, selection.state)
    final = read_state(model.model)
    if all(torch.equal(final[name], start[name]) for name in start) and not (resume and resume.found):
        raise AdapterDidNotMove("no adapter weight changed: the gradient never reached the adapter")
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
    """Masked unlearning (`conditioned`): forget contribution zero on OP-UR, retain contribution zero on OP-RR.

    Forget and retain are balanced 1:1 and domains evenly, by repeating the smaller set.
    """
    half = config.examples_per_step // 2
    to_forget = [example for key in sorted(data) if key[1] is Segment.FORGET for example in data[key]]
    forget = make_side(
        Segment.FORGET,
        data,
        objective(config.objective, model, to_forget, config.micro_batch),
        config.forget_weight,
        masks.op_ur if masks else None,
        half,
        config.seed,
    )
    retain = make_side(
        Segment.RETAIN,
        data,
        descent,
        config.retain_weight,
        masks.op_rr if masks else None,
        config.examples_per_step - half,
        config.seed,
    )
    if not forget.pools or not retain.pools:
        raise ValueError("unlearning needs at least one forget and one retain example")
    log = fit(model, [forget, retain], config, stage="unlearn", score=score, report=report, resume=resume)
    return read_state(model.model), log


def teach(
    model: LoadedModel,
    examples: Mapping[Domain, Sequence[TokenisedExample]],
    config: UnlearnConfig,
    report: Report = ignore_progress,
) -> tuple[AdapterState, TrainLog]:
    """Plain descent on every example: how a starting adapter or a retain-only reference adapter is made."""
    data = {(domain, Segment.RETAIN): list(rows) for domain, rows in examples.items()}
    side = make_side(Segment.RETAIN, data, descent, 1.0, None, config.examples_per_step, config.seed)
    log = fit(model, [side], config, stage="teach", report=report)
    return read_state(model.model), log
