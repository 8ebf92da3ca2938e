"""Which checkpoint is kept, and when to stop (algorithm section 4). Numbers in, a decision out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

REACHED_CUS = 99.0
"""Percentage points of calibrated success from which more steps can only cost retention."""

RETENTION_FALL = 3.0
"""Percentage points of retention below its best that count as falling."""

NEARLY = 0.5
"""Percentage points of cHS that are taken to be no difference: a few held-out items decide no closer, and of two such
checkpoints the later one has been moved about less, since the rate has come down."""


@dataclass(frozen=True, slots=True)
class CheckpointScore:
    """Means over domains, in percentage points. `forget_gap` = US - US_ref; above 0 is over-forgetting."""

    chs: float
    cus: float
    rs: float
    forget_gap: float


@dataclass(slots=True)
class Selection:
    """Keeps the last adapter whose cHS is (nearly) the highest among those whose |forget gap| is within bounds; while
    there is none, the one with the smallest |forget gap|."""

    max_forget_gap: float
    step: int = 0
    best: CheckpointScore | None = None
    state: dict[str, torch.Tensor] | None = field(default=None, repr=False)
    history: list[dict[str, float]] = field(default_factory=list)
    stopped_early: str | None = None

    def better(self, score: CheckpointScore) -> bool:
        """True when `score`, later than all in the history, is to be kept."""
        if self.best is None:
            return True
        highest = max((row["chs"] for row in self.history if self._fits(row["forget_gap"])), default=None)
        if not self._fits(score.forget_gap):
            return highest is None and abs(score.forget_gap) < abs(self.best.forget_gap)
        return highest is None or score.chs >= highest - NEARLY

    def _fits(self, forget_gap: float) -> bool:
        return abs(forget_gap) <= self.max_forget_gap

    def offer(self, step: int, score: CheckpointScore, state: dict[str, torch.Tensor]) -> None:
        """Record a scored checkpoint, keep it when it is the best, and decide whether to stop."""
        if self.better(score):
            self.step, self.best, self.state = step, score, state
        self.history.append(
            {"step": step, "chs": score.chs, "cus": score.cus, "rs": score.rs, "forget_gap": score.forget_gap}
        )
        best_rs = max(entry["rs"] for entry in self.history)
        falling = [
            entry["cus"] >= REACHED_CUS and entry["rs"] < best_rs - RETENTION_FALL for entry in self.history[-2:]
        ]
        if len(falling) == 2 and all(falling):
            self.stopped_early = "forgetting was reached and retention fell twice in a row"
