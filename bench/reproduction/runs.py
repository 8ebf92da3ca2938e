"""One run of the queue: localise (or read what was localised), unlearn, measure; and the reference rows.

Gradient statistics depend on the data set, the half and the seed, not on the row: rows of one seed share them, so that
they are paired by seed, by corruption and by the order of the data.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from grail.config import GENERAL, UnlearnConfig
from grail.data.tokenise import TokenisedExample
from grail.evaluate import MICRO_BATCH
from grail.localise.gradients import GradientStats, Tensors, set_statistics
from grail.localise.regions import MaskSet
from grail.methods import locator, needs_gradients
from grail.metrics.likelihood import forced, free_answers
from grail.metrics.rouge import rouge_l
from grail.model.adapter import AdapterState, adapter_off, read_saved, save_adapter, state_digest, write_state
from grail.model.bundled import bundled_model
from grail.model.load import LoadedModel, load_model
from grail.run import Sets, checkpoint_scorer, held_out, sets_of
from grail.train import TrainLog, trains, unlearn
from grail.types import Domain, Example, Progress, Segment
from reproduction.data import PARTS, Corpus, corpus, general
from reproduction.locks import held
from reproduction.rows import ROWS, Task
from reproduction.teaching import CACHE, make, path_of

SHOWN_PARTS = tuple(part for part in PARTS if part != "retain_train")
"""What tables show: how well a row trained on is kept says little."""
Measured = dict[str, dict[str, list[float | None]]]
"""`domain/part` -> one list a measure (accuracy, nll, rouge_l_forced, rouge_l_free), in the order of its rows."""


@dataclass(slots=True)
class Bench:
    """A data set's half, loaded once for all its runs."""

    corpus: Corpus
    half: str
    model: LoadedModel
    vanilla: AdapterState = field(repr=False)
    clock: dict[str, float] = field(default_factory=dict)

    @classmethod
    def open(cls, name: str, half: str) -> Bench:
        """Teach what has to be taught, and load it. Raises DataAbsent."""
        data = corpus(name)
        make(data, "vanilla")
        vanilla = path_of(data, "vanilla")
        model = load_model(bundled_model(), vanilla)
        return cls(data, half, model, read_saved(vanilla))

    @property
    def items(self) -> list[Example]:
        """What is trained on (and held out): the train parts of the half's subjects."""
        return self.corpus.of(self.corpus.half(self.half), "forget_train", "retain_train")

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Seconds of a stage, added up."""
        start = time.monotonic()
        yield
        self.clock[name] = round(self.clock.get(name, 0.0) + time.monotonic() - start, 2)

    def measure(self, *, free: bool, parts: Sequence[str] = SHOWN_PARTS) -> Measured:
        """Every measure of some parts, under the network as it stands. `free`: greedy answers to the val parts too."""
        subjects, found = self.corpus.half(self.half), {}
        with self.time("evaluate"):
            for domain in self.corpus.subjects:
                for part in parts:
                    rows = [e for e in self.corpus.of(subjects, part) if e.domain == domain]
                    found[f"{domain}/{part}"] = self._measure(rows, free=free and part.endswith("val"))
        return found

    def _measure(self, rows: list[Example], *, free: bool) -> dict[str, list[float | None]]:
        tokenised = [self.model.tokenise(row) for row in rows]
        scores = forced(self.model, tokenised, MICRO_BATCH)
        said = {row.id: self.model.tokenizer.decode(scores[row.id].best, skip_special_tokens=True) for row in rows}
        answers = free_answers(self.model, rows, tokenised, MICRO_BATCH, 256, known=scores) if free else {}
        return {
            "accuracy": [round(scores[row.id].accuracy, 6) for row in rows],
            "nll": [round(scores[row.id].nll, 5) for row in rows],
            "rouge_l_forced": [round(rouge_l(row.completion, said[row.id]), 2) for row in rows],
            "rouge_l_free": [round(rouge_l(row.completion, answers[row.id][0]), 2) if free else None for row in rows],
        }

    def statistics(self, sets: Sets, config: UnlearnConfig, *, of_vanilla: bool) -> GradientStats:
        """Gradient statistics of the sets, read from the cache where the adapter is the vanilla one."""
        squares: dict[tuple[Domain, Segment], Tensors] = {}
        means: dict[tuple[Domain, Segment], Tensors] = {}
        for key, examples in sets.items():
            name = f"{self.corpus.name}-{self.half}-{key[0]}-{key[1]}-seed-{config.seed}"
            both = self._statistic(name, examples, config, keep=of_vanilla)
            squares[key], means[key] = (
                {n.removeprefix(label): t for n, t in both.items() if n.startswith(label)} for label in ("s/", "m/")
            )
        return GradientStats(squares, means, {key: len(examples) for key, examples in sets.items()})

    def _statistic(
        self, name: str, examples: Sequence[TokenisedExample], config: UnlearnConfig, *, keep: bool
    ) -> dict[str, torch.Tensor]:
        """Squares (s/...) and means (m/...) of one set, in one dictionary."""
        shaped = [state_digest(self.vanilla), str(config.draws), *(example.id for example in examples)]
        mark = hashlib.sha256("\n".join(shaped).encode()).hexdigest()[:12]
        path = CACHE / "statistics" / f"{name}-{mark}.safetensors"
        with held(name, wait=True):
            if keep and path.is_file():
                return load_file(path)
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
            found = set_statistics(self.model, examples, config, torch.Generator().manual_seed(number))
            both = {f"{label}/{n}": t for label, ts in zip(("s", "m"), found, strict=True) for n, t in ts.items()}
            if keep:
                path.parent.mkdir(parents=True, exist_ok=True)
                save_file(both, path.with_suffix(".partial"))
                path.with_suffix(".partial").replace(path)
            return both

    def masks(self, sets: Sets, config: UnlearnConfig, *, of_vanilla: bool) -> MaskSet | None:
        """The regions that a config asks for; None where it asks for none."""
        locate = locator(config.method)
        if locate is None or not needs_gradients(config):
            return None
        with self.time("localise"):
            stats = self.statistics(sets, config, of_vanilla=of_vanilla)
            return locate(stats, config, torch.Generator().manual_seed(config.seed))


def reference(bench: Bench, *, free: bool) -> dict[str, Measured]:
    """The rows without a seed: vanilla, the network with the adapter off, an adapter taught the retain data alone. The
    development half, whose results no table shows, needs the second alone."""
    found = {}
    if bench.half != "development":
        make(bench.corpus, "retain_only")
        states = {"vanilla": bench.vanilla, "retain only": read_saved(path_of(bench.corpus, "retain_only"))}
        for name, state in states.items():
            write_state(bench.model.model, state)
            found[name] = bench.measure(free=free)
        write_state(bench.model.model, bench.vanilla)
    with adapter_off(bench.model.model):
        found["adapter off"] = bench.measure(free=free, parts=PARTS)  # checkpoints are scored against it
    return found


def run(bench: Bench, task: Task, learning_rate: float | None, off: Measured) -> dict[str, Any]:
    """One run, from the vanilla adapter to the raw result. `off` are the measures with the adapter off."""
    row, bench.clock = ROWS[task.row], {}
    config = row.config(task.seed, learning_rate)
    items = bench.items
    without = held_out(items, config)
    known = _accuracies(bench, off)
    legs, results, logs, regions = config.legs(bench.corpus.subjects), [], [], None
    write_state(bench.model.model, bench.vanilla)
    for number, domains in enumerate(legs):
        leg = replace(config, steps=config.steps // len(legs))
        inside = [item for item in items if item.domain in domains]
        sets = sets_of(bench.model, inside, without)
        if config.retain_source == GENERAL:
            sets[GENERAL, Segment.RETAIN] = [bench.model.tokenise(example) for example in general()]
        used = {key: part for key, part in sets.items() if trains(key, config)}
        masks = bench.masks(used, leg, of_vanilla=number == 0)
        score = checkpoint_scorer(bench.model, inside, without, known) if row.selected else None
        with bench.time("unlearn"):
            logs.append(unlearn(bench.model, sets, masks, leg, score=score, report=_said)[1])
        results.append(bench.measure(free=task.seed == 0 and task.half != "development"))
        regions = masks.summary if masks else None
    if task.seed == 0 and task.half == "table":
        save_adapter(bench.model.model, CACHE / "adapters" / task.key)
    return {
        "vanilla": state_digest(bench.vanilla), "settings": config.as_dict(), "held_out": sorted(without),
        "seconds": bench.clock,
        "logs": [_log(log) for log in logs],
        "regions": regions, "legs": dict(zip([">".join(d) for d in legs], results, strict=True)),
    }  # fmt: skip


def _accuracies(bench: Bench, off: Measured) -> Mapping[str, float]:
    """Accuracy with the adapter off, 0..1, by id, of every item."""
    found: dict[str, float] = {}
    for name, measures in off.items():
        rows = [e for e in bench.corpus.of(bench.corpus.half(bench.half), name.split("/")[1]) if e.id.startswith(name)]
        found |= {row.id: value or 0.0 for row, value in zip(rows, measures["accuracy"], strict=True)}
    return found


def _log(log: TrainLog) -> dict[str, Any]:
    return {
        "steps": log.steps, "kept_step": log.kept_step, "stopped_early": log.stopped_early,
        "losses": [row for row in log.losses if row["step"] == 1 or row["step"] % 10 == 0],
        "checkpoints": log.checkpoints,
    }  # fmt: skip


def _said(progress: Progress) -> None:
    if progress.step % 40 == 0:
        losses = ", ".join(f"{name} {value:.2f}" for name, value in progress.losses.items())
        print(f"    step {progress.step}/{progress.steps}: {losses}", flush=True)
