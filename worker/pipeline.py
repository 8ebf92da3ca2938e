"""The stages of a job in as many lines: what was, what never knew, where it sits, unlearn, what became of it.

A stage whose artefact exists under its digest is read instead of computed: a job that is started again goes on after
the last stage, inside training at the last checkpoint. Scores are kept per text, so that the next job on the same
adapter does not measure them again.
"""

from __future__ import annotations

import hmac
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from app.secret import derive
from grail.checkpoint import Resume
from grail.config import GENERAL, RunSpec, UnlearnConfig
from grail.evaluate import CERTIFIABLE, MICRO_BATCH, EvalResult, compare, in_base, measure
from grail.gate import Verdict, decide
from grail.localise.regions import MaskSet, NoRetainData
from grail.methods import needs_gradients
from grail.metrics.base import ExampleScore
from grail.model.adapter import AdapterState, as_saved, read_state, write_state
from grail.model.checkpointing import checkpointing
from grail.model.load import LoadedModel, as_reference
from grail.report import environment
from grail.run import held_out, localise, reinstate, reinstatement, unlearn
from grail.train import TrainLog, joined, trains
from grail.types import Example, Kind, Report, Role, Segment
from worker.artifacts import ArtefactStore, key_of
from worker.device import free_device, with_smaller_batches

log = structlog.get_logger(__name__)

Finished = Callable[[str, str, float], None]
"""Told (stage, digest of what it made, seconds); raising ends the run."""

SHAPES_REGIONS = frozenset({"method", "score", "regions", "retain_source", "k_ur", "k_rr", "draws", "seed", "options"})
"""Settings that change which entries the regions hold."""
CHANGES_NOTHING = frozenset({"micro_batch", "activation_checkpointing"})
"""Settings that change what fits the device, not what comes out."""


def everything(_: Example) -> bool:
    """Every example."""
    return True


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `state`, `log` and `regions` are None when nothing was left to unlearn."""

    result: EvalResult
    verdict: Verdict
    environment: dict[str, Any]
    timings: dict[str, float]
    held_out: frozenset[str] = frozenset()
    regions: dict[str, Any] | None = field(default=None, repr=False)
    log: TrainLog | None = field(default=None, repr=False)
    state: AdapterState | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Leg:
    """One run over some of the domains: what it made, under which key, with which masks."""

    state: AdapterState = field(repr=False)
    log: TrainLog
    key: str
    masks: MaskSet | None = field(repr=False)


@dataclass(slots=True)
class Pipeline:
    """One run of one loaded model. `run` raises whatever its stages raise; files of the served adapter are only
    read."""

    spec: RunSpec
    model: LoadedModel
    store: ArtefactStore
    report: Report
    finished: Finished
    timings: dict[str, float] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Compute the job, from the starting adapter to the verdict on the candidate."""
        spec, start = self.spec, read_state(self.model.model)
        planned = spec.legs()
        original = self.scores("original", spec.adapter_digest)
        with as_reference(self.model):
            reference = self.scores("reference", spec.reference_digest, asked=is_requested)
        known = in_base(spec.examples, reference, spec.gate)
        if spec.kind is Kind.REINSTATE:
            return self.reinstated(start, original, reference, known)
        items = [example for example in spec.examples if example.role is Role.ITEM and example.id not in known]
        left = {item.domain for item in items if item.segment is Segment.FORGET}
        planned = [domains for domains in planned if left & set(domains)]
        if not planned:
            return self.outcome(original, original, reference)
        without = held_out(items, spec.unlearn)
        done = self.legs(planned, items, without, start, reference)
        state = done[-1].state
        write_state(self.model.model, state)
        candidate = self.scores("candidate", done[-1].key)
        for leg in done:
            shutil.rmtree(self.store.directory(leg.key), ignore_errors=True)
        found = [leg.masks.summary for leg in done if leg.masks]
        regions = {**found[-1], "earlier": found[:-1]} if found else None
        log = joined([leg.log for leg in done])
        return self.outcome(original, candidate, reference, held_out=without, regions=regions, log=log, state=state)

    def legs(
        self,
        planned: Sequence[Sequence[str]],
        items: Sequence[Example],
        without: frozenset[str],
        start: AdapterState,
        reference: Mapping[str, ExampleScore],
    ) -> list[Leg]:
        """Localise and unlearn, once for all domains or once for each of `planned`, each run starting from what the one
        before left, as it would have been saved. Raises NoRetainData before any of it."""
        config, done = self.spec.unlearn, list[Leg]()
        of_leg = [
            [item for item in items if config.strategy == "combined" or item.domain in (*domains, GENERAL)]
            for domains in planned
        ]
        for inside in of_leg:
            check_retain_data(inside, without, config)
        for inside in of_leg:
            from_state, from_key = (done[-1].state, done[-1].key) if done else (start, self.spec.adapter_digest)
            write_state(self.model.model, from_state)
            masks, masks_key = self.localise(inside, without, from_key)
            done.append(self.unlearn(inside, without, masks, masks_key, from_state, reference))
        return done

    def reinstated(
        self,
        start: AdapterState,
        original: Mapping[str, ExampleScore],
        reference: Mapping[str, ExampleScore],
        known: frozenset[str],
    ) -> Outcome:
        """Teach the job's items again, with earlier erasures held. Without any item the gate says so."""
        items = [example for example in self.spec.examples if example.role is Role.ITEM]
        if not any(item.request for item in items):
            return self.outcome(original, original, reference)
        erased = [e for e in self.spec.examples if e.role is Role.ERASED and e.id not in known]
        made = self.teach_again(items, erased, start)
        write_state(self.model.model, made.state)
        candidate = self.scores("candidate", made.key)
        shutil.rmtree(self.store.directory(made.key), ignore_errors=True)
        return self.outcome(original, candidate, reference, log=made.log, state=made.state)

    def teach_again(self, items: Sequence[Example], erased: Sequence[Example], start: AdapterState) -> Leg:
        """The candidate's tensors, taught or read."""
        config = reinstatement(self.spec.unlearn, len(items))
        shaping = {name: value for name, value in config.as_dict().items() if name not in CHANGES_NOTHING}
        data = [[content_key(example), example.domain, example.role] for example in (*items, *erased)]
        key = key_of(
            "reinstated", 1, self.network, self.spec.adapter_digest, self.spec.reference_digest, shaping, data
        )

        def compute(fits: UnlearnConfig) -> tuple[AdapterState, TrainLog]:
            write_state(self.model.model, start)
            resume = Resume(self.store.directory(key))
            with checkpointing(self.model.model, on=fits.activation_checkpointing == "on"):
                return reinstate(self.model, items, erased, fits, report=self.report, resume=resume)

        return self.made("reinstate", key, config, compute, None)

    def outcome(
        self,
        original: Mapping[str, ExampleScore],
        candidate: Mapping[str, ExampleScore],
        reference: Mapping[str, ExampleScore],
        **made: Any,
    ) -> Outcome:
        """The comparison and its verdict, with what was made."""
        gate, without = self.spec.gate, made.get("held_out", frozenset())
        kind = self.spec.kind
        result = compare(self.spec.examples, original, candidate, reference, gate, held_out=without, kind=kind)
        return Outcome(result, decide(result, gate, kind), environment(self.model), dict(self.timings), **made)

    @contextmanager
    def stage(self, name: str, key: str) -> Iterator[None]:
        """Times a stage, and tells of its artefact once it has come to its end."""
        start = time.monotonic()
        yield
        free_device()
        taken = self.timings.get(name, 0.0) + time.monotonic() - start  # a stage comes once in each leg
        self.timings[name] = round(taken, 3)
        self.finished(name, key, self.timings[name])

    @property
    def network(self) -> list[Any]:
        """What any score or gradient depends on, beside the adapter and the texts."""
        return [self.spec.base_digest, self.spec.prompt_template, str(self.model.precision), self.model.device.type,
                self.model.quantisation]  # fmt: skip

    def scores(
        self, stage: str, adapter_digest: str, asked: Callable[[Example], bool] = everything
    ) -> dict[str, ExampleScore]:
        """Scores of every example under the network as it stands, with free answers of those that are `asked` (the
        slow part); scores measured before are read."""
        key = key_of("scores", 1, self.network, adapter_digest)
        contents = {example.id: content_key(example, asked(example)) for example in self.spec.examples}
        with self.stage(stage, key):
            known = self.store.read_scores(key, set(contents.values()))
            missing = [example for example in self.spec.examples if contents[example.id] not in known]
            for generate in (False, True):
                rows = [example for example in missing if asked(example) is generate]
                fresh = self.measured(stage, rows, generate=generate) if rows else {}
                found = {contents[example_id]: score for example_id, score in fresh.items()}
                self.store.write_scores(key, found)
                known |= found
        return {example.id: known[contents[example.id]] for example in self.spec.examples}

    def measured(self, stage: str, rows: Sequence[Example], *, generate: bool) -> dict[str, ExampleScore]:
        """Scores of rows, in smaller batches where memory runs out."""

        def compute(fits: UnlearnConfig) -> dict[str, ExampleScore]:
            return measure(
                self.model, rows, generate=generate, micro_batch=fits.micro_batch, report=self.report, stage=stage
            )

        # Nothing is kept for a way back: checkpointing would not make it smaller.
        asked = replace(self.spec.unlearn, micro_batch=MICRO_BATCH, activation_checkpointing="off")
        return with_smaller_batches(asked, compute)

    def localise(self, items: Sequence[Example], without: frozenset[str], from_key: str) -> tuple[MaskSet | None, str]:
        """The regions of the adapter that `from_key` names, found or read; None where the method has none."""
        config = self.spec.unlearn
        shaping = {name: value for name, value in config.as_dict().items() if name in SHAPES_REGIONS}
        data = [[item.id, content_key(item), item.domain, item.segment, item.id in without] for item in items]
        key = key_of("masks", 2, self.network, from_key, shaping, data)
        if not needs_gradients(config):
            return None, key

        def compute(fits: UnlearnConfig) -> MaskSet | None:
            with checkpointing(self.model.model, on=fits.activation_checkpointing == "on"):
                return localise(self.model, items, fits, self.report, without=without)

        with self.stage("localise", key):
            masks = self.store.read_masks(key)
            if masks is None:
                masks = with_smaller_batches(config, compute)
                if masks is not None:
                    self.store.write_masks(key, masks)
        return masks, key

    def unlearn(
        self,
        items: Sequence[Example],
        without: frozenset[str],
        masks: MaskSet | None,
        masks_key: str,
        start: AdapterState,
        reference: Mapping[str, ExampleScore],
    ) -> Leg:
        """The candidate's tensors, trained or read."""
        shaping = {name: value for name, value in self.spec.unlearn.as_dict().items() if name not in CHANGES_NOTHING}
        key = key_of("adapter", 2, masks_key, masks.digest if masks else None, self.spec.reference_digest, shaping)
        accuracy = {item.id: reference[item.id].accuracy for item in items}

        def compute(fits: UnlearnConfig) -> tuple[AdapterState, TrainLog]:
            write_state(self.model.model, start)
            resume = Resume(self.store.directory(key))
            with checkpointing(self.model.model, on=fits.activation_checkpointing == "on"):
                return unlearn(
                    self.model, items, masks, fits, without=without, reference_accuracy=accuracy, report=self.report,
                    resume=resume,
                )  # fmt: skip

        return self.made("unlearn", key, self.spec.unlearn, compute, masks)

    def made(
        self,
        stage: str,
        key: str,
        config: UnlearnConfig,
        compute: Callable[[UnlearnConfig], tuple[AdapterState, TrainLog]],
        masks: MaskSet | None,
    ) -> Leg:
        """What `compute` trains, or what was trained and kept under `key`."""
        with self.stage(stage, key):
            found = self.store.read_adapter(key)
            if found is None:
                if self.store.directory(key).is_dir():
                    log.info("training_resumed", artefact=key)
                found = with_smaller_batches(config, compute)
                self.store.write_adapter(key, *found)
        state, trained = found
        return Leg(as_saved(state), trained, key, masks)  # measured and judged is what is published, to the bit


def check_retain_data(items: Sequence[Example], without: Collection[str], config: UnlearnConfig) -> None:
    """Raises NoRetainData where a run that is to retain has nothing to: rows may have been erased since they were
    drawn, and a leg of a strategy sees those of its own domain only."""
    if config.retain_objective == "none":
        return
    retain = [item for item in items if item.segment is Segment.RETAIN and item.id not in without]
    if any(trains((item.domain, item.segment), config) for item in retain):
        return
    asked = sorted({item.domain for item in items if item.segment is Segment.FORGET})
    wanted = GENERAL if config.retain_source == "general" else " or ".join(asked)
    raise NoRetainData(f"the batch has no retain item in {wanted} that could be trained on")


def is_requested(example: Example) -> bool:
    """What a model that never knew says matters for what is to be forgotten or was: is it `in_base`, how does it
    sound."""
    return example.segment is Segment.FORGET and example.role in CERTIFIABLE


def content_key(example: Example, asked: bool = False) -> str:
    """Stands for all of an example that its score depends on, so that artefacts are named after it; `asked`: with a
    free answer. Keyed: names of files outlive what was erased, and nobody is to try guesses on them. Scores are
    measured anew once the master secret was changed."""
    parts = ["asked" if asked else "", example.prompt, example.completion, *example.facts]
    words = "".join(f"{len(part)}:{part}" for part in parts).encode()
    return hmac.digest(derive("content of artefacts"), words, "sha256").hex()
