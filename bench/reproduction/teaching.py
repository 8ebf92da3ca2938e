"""The adapters that the reproduction starts from and compares with: `vanilla`, taught everything, and `retain_only`,
taught the retain scope alone (what exact retraining would give). Kept in a cache outside the repository."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from grail.evaluate import accuracies
from grail.model.adapter import read_saved, save_adapter, write_state
from grail.model.bundled import bundled_model
from grail.model.load import LoadedModel, load_model, lora_shape
from grail.run import teach
from grail.types import Example, Progress, Segment
from reproduction.data import ROOT, Corpus

CACHE = ROOT / ".grail" / "paper"
PASSES, EXAMPLES_PER_STEP, LEARNING_RATE, RANK = 6, 8, 2e-3, 16
WANTED = 0.995
"""Mean token accuracy of every part that a vanilla adapter is taught."""
MORE_PASSES, LOWER_RATE, MOST_ROUNDS = 3, 5e-4, 3


def path_of(corpus: Corpus, kind: str) -> Path:
    """The directory of an adapter: `kind` is vanilla or retain_only."""
    return CACHE / f"{corpus.name}-{kind}"


def make(corpus: Corpus, kind: str) -> Path:
    """The adapter's directory; taught now where there is none yet."""
    target = path_of(corpus, kind)
    if (target / "taught.json").is_file():
        return target
    torch.manual_seed(0)  # a fresh adapter's A matrices are drawn by PEFT from the global generator
    model = load_model(bundled_model(), None, lora=lora_shape(RANK))
    rows = [e for e in corpus.examples if kind == "vanilla" or e.segment is Segment.RETAIN]
    start, rounds = time.monotonic(), 0
    _teach(model, rows, PASSES, LEARNING_RATE, 0)
    while min(reached(model, rows).values()) < WANTED and rounds < MOST_ROUNDS:
        rounds += 1
        print(f"  below {100 * WANTED} %: {MORE_PASSES} more passes at {LOWER_RATE}", flush=True)
        _teach(model, rows, MORE_PASSES, LOWER_RATE, rounds)
    save_adapter(model.model, target)
    write_state(model.model, read_saved(target))  # what is kept is bf16: that is what is measured
    found = {
        "rows": len(rows), "rounds": rounds, "seconds": round(time.monotonic() - start),
        "accuracy": {part: round(value, 5) for part, value in reached(model, rows).items()},
    }  # fmt: skip
    (target / "taught.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"  {target.name}: {found}", flush=True)
    return target


def _teach(model: LoadedModel, rows: Sequence[Example], passes: int, learning_rate: float, seed: int) -> None:
    start = time.monotonic()

    def show(progress: Progress) -> None:
        if progress.step % 50 == 0 or progress.step == progress.steps:
            left = (time.monotonic() - start) / progress.step * (progress.steps - progress.step)
            loss = progress.losses.get("retain", 0.0)
            print(f"  step {progress.step}/{progress.steps} loss {loss:.3f}, {left / 60:.0f} min left", flush=True)

    teach(
        model, rows, passes=passes, examples_per_step=EXAMPLES_PER_STEP, learning_rate=learning_rate, seed=seed,
        report=show,
    )  # fmt: skip


def reached(model: LoadedModel, rows: Sequence[Example]) -> dict[str, float]:
    """Mean token accuracy 0..1 of each part of each domain."""
    found = accuracies(model, [model.tokenise(row) for row in rows])
    parts: dict[str, list[float]] = {}
    for row in rows:
        parts.setdefault("/".join(row.id.split("/")[:2]), []).append(found[row.id])
    return {part: sum(values) / len(values) for part, values in sorted(parts.items())}
