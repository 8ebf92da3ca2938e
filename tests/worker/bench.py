"""A pipeline on a loaded model and a store, for as many runs as a test wants, and the examples that it runs on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grail.config import GateConfig, RunSpec, UnlearnConfig
from grail.model.adapter import read_state, state_digest, write_state
from grail.model.load import LoadedModel, load_model
from grail.types import Example, Role, Segment
from tests.fixtures.facts import END, FRUIT, PEOPLE, PLACE, TEMPLATE, WORKS, YEAR
from worker import pipeline
from worker.artifacts import ArtefactStore
from worker.pipeline import Outcome, Pipeline

CONFIG = UnlearnConfig(
    steps=4, examples_per_step=4, micro_batch=4, draws=1, score_every_steps=2, precision="fp32", learning_rate=1e-3
)


class Stopped(Exception):
    """As a lost lease."""


def example(
    number: int, prompt: str, completion: str, segment: Segment, subject: str, domain: str = "privacy", **more: Any
) -> Example:
    return Example(f"{number:032d}", domain, segment, subject, prompt, completion, facts=(completion,), **more)


def examples() -> tuple[Example, ...]:
    """One subject's home is to go, all fruits are to stay; with a probe."""
    gone = example(0, PLACE.format("Ada"), PEOPLE["Ada"][0], Segment.FORGET, "Ada", request="r1")
    probe = example(
        1, "Where is Ada?", PEOPLE["Ada"][0], Segment.FORGET, "Ada", request="r1", parent=gone.id, role=Role.PARAPHRASE
    )
    kept = [
        example(2 + place, FRUIT.format(name), fruit, Segment.RETAIN, name)
        for place, (name, (_, fruit)) in enumerate(PEOPLE.items())
    ]
    return (gone, probe, *kept)


def works() -> tuple[Example, ...]:
    """The same of the other domain: one work's end is to go, all years are to stay."""
    gone = example(50, END.format("Dusk"), WORKS["Dusk"][0], Segment.FORGET, "Dusk", "copyright", request="r2")
    kept = [
        example(51 + place, YEAR.format(name), year, Segment.RETAIN, name, "copyright")
        for place, (name, (_, year)) in enumerate(WORKS.items())
    ]
    return (gone, *kept)


@dataclass
class Bench:
    """One loaded model and one store, for as many runs as a test wants."""

    spec: RunSpec
    model: LoadedModel
    store: ArtefactStore
    start: dict[str, torch.Tensor]
    calls: Counter[str] = field(default_factory=Counter)
    told: list[tuple[str, str]] = field(default_factory=list)

    def run(
        self, *, report: Any = None, finished: Any = None, unlearn: dict[str, Any] | None = None, **spec: Any
    ) -> Outcome:
        """A run as a fresh worker begins it: the served adapter in the model, nothing in memory."""
        write_state(self.model.model, self.start)
        self.calls.clear()
        self.told.clear()
        changes = unlearn or {}
        config = UnlearnConfig(**{**self.spec.unlearn.changed(changes), **changes})
        asked = replace(self.spec, unlearn=config, **spec)

        def note(stage: str, digest: str, seconds: float) -> None:
            assert seconds >= 0
            self.told.append((stage, digest))

        return Pipeline(asked, self.model, self.store, report or (lambda _: None), finished or note).run()


def make_bench(
    base: Path, adapter: Path, store: Path, monkeypatch: pytest.MonkeyPatch, reference: Path | None = None
) -> Bench:
    """A bench on the tiny base with an adapter, and with a reference adapter if one is given."""
    model = load_model(base, adapter, template=TEMPLATE, precision="fp32", reference=reference)
    spec = RunSpec(
        base, "base", adapter, "adapter", reference, "registered" if reference else "adapter-off", TEMPLATE, CONFIG,
        GateConfig(), examples(),
    )  # fmt: skip
    made = Bench(spec, model, ArtefactStore(store, store / "scratch"), read_state(model.model))
    for name in ("localise", "unlearn"):
        count_calls(made, monkeypatch, name)
    measure = pipeline.measure

    def counted(model: LoadedModel, rows: Any, **more: Any) -> Any:
        made.calls[f"measure {more['stage']}"] += len(rows)
        return measure(model, rows, **{"max_new_tokens": 4, **more})

    monkeypatch.setattr(pipeline, "measure", counted)
    return made


def count_calls(bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = getattr(pipeline, name)

    def counted(*args: Any, **named: Any) -> Any:
        bench.calls[name] += 1
        return real(*args, **named)

    monkeypatch.setattr(pipeline, name, counted)


def same(one: Outcome, other: Outcome) -> None:
    """Two outcomes that agree to the bit in all that lasts."""
    assert one.verdict.as_dict() == other.verdict.as_dict()
    assert one.regions == other.regions
    assert one.log == other.log
    assert (one.state is None) == (other.state is None)
    if one.state is not None and other.state is not None:
        assert state_digest(one.state) == state_digest(other.state)
