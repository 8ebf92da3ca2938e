"""US, RS, HS and their calibrated forms, in percentage points (algorithm section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def unlearning_success(mean_accuracy: float) -> float:
    """US = 100 - mean accuracy x 100 over forget examples."""
    return 100.0 - 100.0 * mean_accuracy


def retention_success(mean_accuracy: float) -> float:
    """RS = mean accuracy x 100 over retain examples."""
    return 100.0 * mean_accuracy


def harmonic(one: float, other: float) -> float:
    """Harmonic mean; 0 when either is 0."""
    return 2.0 * one * other / (one + other) if one > 0 and other > 0 else 0.0


def calibrated_success(us: float, us_reference: float) -> float | None:
    """cUS = 100 min(1, US / US_ref); None where the reference knows everything, so that nothing can be forgotten."""
    return None if us_reference <= 0 else 100.0 * min(1.0, max(0.0, us) / us_reference)


def forget_gap(us: float, us_reference: float) -> float:
    """US - US_ref with its sign: above 0 is over-forgetting."""
    return us - us_reference


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean by math.fsum. Raises ValueError for no values."""
    if not values:
        raise ValueError("the mean of nothing")
    return math.fsum(values) / len(values)


def perplexity(mean_nll: float) -> float | None:
    """exp(mean NLL); None where it overflows (shown as "inf")."""
    try:
        return math.exp(mean_nll)
    except OverflowError:
        return None
