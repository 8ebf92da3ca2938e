"""One share of the whole job from a stage's own share, and the loss curve in bounded space. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grail.types import Progress

SPANS: Mapping[str, tuple[float, float]] = {
    "prepare": (0.00, 0.05),
    "load": (0.00, 0.05),
    "original": (0.05, 0.12),
    "measure": (0.05, 0.20),
    "reference": (0.12, 0.20),
    "localise": (0.20, 0.30),
    "regions": (0.30, 0.32),
    "unlearn": (0.32, 0.80),
    "teach": (0.20, 0.80),
    "evaluate": (0.80, 0.97),
    "candidate": (0.80, 0.97),
    "write": (0.97, 0.99),
    "report": (0.99, 1.00),
}
"""Where a stage begins and ends within 0..1; training takes most of it. Other stages leave the bar where it is."""

MAX_POINTS = 400
"""Points of the loss curve in a row; beyond, every second older point is dropped."""


def overall(progress: Progress, before: float) -> float:
    """The job's share 0..1: it never runs backwards."""
    low, high = SPANS.get(progress.stage, (before, before))
    share = min(max(progress.share, 0.0), 1.0)
    return min(max(before, low + (high - low) * share), 1.0)


def with_losses(curve: Sequence[Mapping[str, Any]], progress: Progress) -> list[dict[str, Any]]:
    """The curve with the newest losses. A resumed run repeats steps: its points replace those of the lost one.

    What is no number is left out: JSON has no word for it, and the run ends by itself.
    """
    losses = {name: round(loss, 6) for name, loss in progress.losses.items() if math.isfinite(loss)}
    if not losses:
        return [dict(point) for point in curve]
    kept = [dict(point) for point in curve if point["step"] < progress.step]
    if len(kept) >= MAX_POINTS:
        kept = kept[::2]
    return [*kept, {"step": progress.step, **losses}]
