"""US, RS, HS and their calibrated forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail.metrics.success import (
    calibrated_success,
    forget_gap,
    harmonic,
    mean,
    perplexity,
    retention_success,
    unlearning_success,
)

points = st.floats(0, 100)


def test_the_papers_worked_check() -> None:
    privacy, copyright_ = harmonic(90.72, 85.34), harmonic(98.75, 93.87)
    assert (round(privacy, 2), round(copyright_, 2)) == (87.95, 96.25)
    assert round(mean([privacy, copyright_]), 2) == 92.10
    assert round(mean([90.72, 85.34, 98.75, 93.87]), 2) == 92.17


@given(points, points)
def test_the_harmonic_mean_lies_between_the_smaller_and_the_arithmetic_mean(one: float, other: float) -> None:
    found = harmonic(one, other)
    assert 0 <= found <= (one + other) / 2 + 1e-9
    assert found == harmonic(other, one)
    assert found == 0 or found >= min(one, other) - 1e-9
    assert (found == 0) == (one == 0 or other == 0) or found < 1e-300


@given(points, points)
def test_calibrated_success_is_capped_and_the_gap_tells_what_the_cap_hides(us: float, us_reference: float) -> None:
    found = calibrated_success(us, us_reference)
    if us_reference == 0:
        assert found is None
        return
    assert found is not None and 0 <= found <= 100
    assert (found == 100) or us < us_reference
    assert math.copysign(1, forget_gap(us, us_reference)) == math.copysign(1, us - us_reference)


def test_success_means_opposite_things_for_the_two_sides() -> None:
    assert unlearning_success(0.25) == 75.0
    assert retention_success(0.25) == 25.0
    assert calibrated_success(45.0, 60.0) == 75.0
    assert calibrated_success(70.0, 60.0) == 100.0


def test_perplexity_is_undefined_where_exp_overflows() -> None:
    assert perplexity(math.log(17)) == pytest.approx(17)
    assert perplexity(709.0) is not None
    assert perplexity(710.0) is None


def test_the_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        mean([])
