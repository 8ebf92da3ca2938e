"""Localise and unlearn as one composition, for whoever brings a loaded model and examples (service, bench, demo).

Of the retain items a share is held out: never trained on, never localised with, and what checkpoints are chosen by.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count

import torch

from grail import train
from grail.checkpoint import Resume
from grail.config import LEAST_STEPS, UnlearnConfig
from grail.data.tokenise import TokenisedExample
from grail.evaluate import accuracies, score_checkpoint
from grail.localise.gradients import gradient_statistics
from grail.localise.regions import MaskSet
from grail.methods import locator, needs_gradients
from grail.model.adapter import AdapterState
from grail.model.load import LoadedModel
from grail.selection import CheckpointScore
from grail.train import TrainLog, trains
from grail.types import Domain, Example, Report, Segment, ignore_progress

REINSTATE_PASSES, REINSTATE_RATE, REINSTATE_EXAMPLES_PER_STEP = 10, 1e-3, 8
"""Passes over what is taught again: each item is seen that often, in half of each step."""

Sets = dict[tuple[Domain, Segment], list[TokenisedExample]]


def held_out(items: Sequence[Example], config: UnlearnConfig) -> frozenset[str]:
    """Ids of the retain items that checkpoints are chosen by: `holdout_share` of each domain's, at least one, spread
    over subjects (one of each subject before a second of any). A domain with a single retain item trains on it.

    Taken from the standing set where it serves: what a request asks to protect is better trained on.
    """
    chosen: set[str] = set()
    for domain in sorted({item.domain for item in items}):
        retain = [item for item in items if item.domain == domain and item.segment is Segment.RETAIN]
        standing = [item for item in retain if item.request is None]
        if len(retain) > 1 and config.holdout_share > 0:
            wanted = math.ceil(config.holdout_share * len(retain))
            chosen.update(_spread(standing or retain, config.seed)[:wanted])
    return frozenset(chosen)


def _spread(items: Sequence[Example], seed: int) -> list[str]:
    """Ids in a fixed pseudo-random order that takes every subject in turn."""
    turns: dict[str, count[int]] = {}
    ordered = sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item.id}".encode()).digest())
    turn_of = {item.id: next(turns.setdefault(item.subject, count())) for item in ordered}
    return [item.id for item in sorted(ordered, key=lambda item: turn_of[item.id])]


def sets_of(model: LoadedModel, items: Sequence[Example], without: Collection[str] = ()) -> Sets:
    """Tokenised items by domain and segment. Raises TooLong."""
    sets: Sets = {}
    for item in items:
        if item.id not in without:
            sets.setdefault((item.domain, item.segment), []).append(model.tokenise(item))
    return sets


def localise(
    model: LoadedModel,
    items: Sequence[Example],
    config: UnlearnConfig,
    report: Report = ignore_progress,
    *,
    without: Collection[str] = (),
) -> MaskSet | None:
    """The regions of the model's present adapter (algorithm sections 2 and 3), or None for a method that has none.
    `items` are what is trained on.

    Raises NoRetainData, FloatingPointError, TooLong.
    """
    locate = locator(config.method)
    if locate is None or not needs_gradients(config):
        return None
    generator = torch.Generator().manual_seed(config.seed)
    sets = {key: part for key, part in sets_of(model, items, without).items() if trains(key, config)}
    return locate(gradient_statistics(model, sets, config, generator, report), config, generator)


def unlearn(
    model: LoadedModel,
    items: Sequence[Example],
    masks: MaskSet | None,
    config: UnlearnConfig,
    *,
    reference_accuracy: Mapping[str, float],
    without: Collection[str] = (),
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> tuple[AdapterState, TrainLog]:
    """Masked unlearning with checkpoint selection (algorithm section 4) from the model's present adapter.

    `without` are held-out retain items: scored, not trained on. `reference_accuracy` 0..1 by id, of every item.
    Raises NonFinite, AdapterDidNotMove, TooLong.
    """
    score = checkpoint_scorer(model, items, without, reference_accuracy)
    sets = sets_of(model, items, without)
    return train.unlearn(model, sets, masks, config, score=score, report=report, resume=resume)


def teach(
    model: LoadedModel,
    items: Sequence[Example],
    *,
    passes: int,
    examples_per_step: int,
    learning_rate: float,
    seed: int,
    report: Report = ignore_progress,
) -> TrainLog:
    """Plain descent on every item, `passes` times: how a starting adapter or a reference adapter is made. Teaching
    knows no domains, so that micro-batches are full. Raises NonFinite, AdapterDidNotMove, TooLong."""
    config = UnlearnConfig(
        steps=max(1, passes * len(items) // examples_per_step),
        examples_per_step=examples_per_step,
        learning_rate=learning_rate,
        score_every_steps=100_000,
        micro_batch=examples_per_step,
        seed=seed,
    )
    return train.teach(model, {"all": [model.tokenise(item) for item in items]}, config, report)[1]


def reinstatement(config: UnlearnConfig, items: int) -> UnlearnConfig:
    """The settings by which so many items are taught again beside held erasures; what bounds memory and resume stays.

    Nothing is localised: an erasure that gives way shows in what is held.
    """
    kept = REINSTATE_EXAMPLES_PER_STEP // 2
    return UnlearnConfig(
        objective="calibrated",
        regions="none",
        steps=max(LEAST_STEPS, math.ceil(REINSTATE_PASSES * items / kept)),
        examples_per_step=REINSTATE_EXAMPLES_PER_STEP,
        learning_rate=REINSTATE_RATE,
        forget_weight=1.0,
        retain_weight=1.0,
        holdout_share=0.0,
        score_every_steps=config.score_every_steps,
        micro_batch=config.micro_batch,
        precision=config.precision,
        seed=config.seed,
        activation_checkpointing=config.activation_checkpointing,
    )


def reinstate(
    model: LoadedModel,
    items: Sequence[Example],
    erased: Sequence[Example],
    config: UnlearnConfig,
    *,
    report: Report = ignore_progress,
    resume: Resume | None = None,
) -> tuple[AdapterState, TrainLog]:
    """Teach `items` (retain segment) again from the model's present adapter, while what is `erased` is held where the
    reference stands. `config` as `reinstatement` made it. Raises NonFinite, AdapterDidNotMove, TooLong."""
    sets = sets_of(model, items)
    if not erased:
        return train.teach(model, {d: rows for (d, _), rows in sets.items()}, config, report, resume)
    for example in erased:
        sets.setdefault((example.domain, Segment.FORGET), []).append(model.tokenise(example))
    return train.unlearn(model, sets, None, config, report=report, resume=resume)


def checkpoint_scorer(
    model: LoadedModel, items: Sequence[Example], without: Collection[str], reference_accuracy: Mapping[str, float]
) -> Callable[[], CheckpointScore]:
    """What a checkpoint is scored by: every forget item, and the held-out retain items (all of a domain's where it has
    none held out)."""
    guarded = {item.domain for item in items if item.id in without}
    seen = [i for i in items if i.segment is Segment.FORGET or i.id in without or i.domain not in guarded]
    tokenised = [model.tokenise(item) for item in seen]
    return lambda: score_checkpoint(seen, accuracies(model, tokenised), reference_accuracy)
