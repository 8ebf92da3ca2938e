"""The bootstrap: recomputed by a stand-alone twin from its description, pinned by golden values."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grail.metrics.intervals import (
    FEW_SUBJECTS,
    NOTHING,
    SMALL_SAMPLE,
    UNDEFINED,
    draws,
    estimate,
    mean_of,
)
from grail.metrics.success import calibrated_success, unlearning_success

GOLDEN_DRAWS = [9, 0, 3, 3, 7, 2, 4, 9, 4, 9, 8, 9]
GOLDEN_INTERVAL = (0.4955, (0.32802631578947367, 0.6422926829268293), 40, 12)


def auditors_interval(values: Sequence[float], subjects: Sequence[str]) -> tuple[float, float]:
    """Written from the module's docstring alone: standard library, no shortcut."""
    order = list(dict.fromkeys(subjects))
    rows = {name: [v for v, s in zip(values, subjects, strict=True) if s == name] for name in order}
    count = len(order)

    def word(number: int) -> int:
        block = hashlib.sha256((0).to_bytes(8, "big") + (number // 4).to_bytes(8, "big")).digest()
        return int.from_bytes(block[number % 4 * 8 : number % 4 * 8 + 8], "big")

    found = []
    for resample in range(2000):
        drawn = [order[word(resample * count + place) % count] for place in range(count)]
        found.append(math.fsum(math.fsum(rows[n]) for n in drawn) / sum(len(rows[n]) for n in drawn))
    found.sort()
    return found[50], found[1949]


def sample(subjects: int) -> tuple[list[float], list[str]]:
    """Uneven subjects, values without a pattern, the same on every machine."""
    names = [f"s{number % subjects}" for number in range(subjects * 3 + 4)]
    return [(number * 7919 % 1000) / 1000 for number in range(len(names))], names


@given(st.integers(FEW_SUBJECTS, 14), st.randoms(use_true_random=False))
@settings(max_examples=5, deadline=None)
def test_an_auditors_script_gets_the_same_digits(subjects: int, random: object) -> None:
    values, names = sample(subjects)
    random.shuffle(values)  # type: ignore[attr-defined]
    assert mean_of(values, names).interval == auditors_interval(values, names)


def test_golden_draws_and_interval() -> None:
    assert draws(0, 12)[0].tolist() == GOLDEN_DRAWS
    assert draws(1, 12)[0].tolist() != GOLDEN_DRAWS
    found = mean_of(*sample(12))
    assert (found.value, found.interval, found.n, found.subjects) == GOLDEN_INTERVAL


def test_names_do_not_matter_since_reports_hold_none() -> None:
    values, names = sample(11)
    renamed = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    assert mean_of(values, names) == mean_of(values, [renamed[name] for name in names])


def test_subjects_are_resampled_and_not_rows() -> None:
    values = [float(subject % 2) for subject in range(20) for _ in range(50)]
    by_subject = mean_of(values, [f"s{subject}" for subject in range(20) for _ in range(50)])
    by_row = mean_of(values, [f"r{row}" for row in range(1000)])
    assert by_subject.interval is not None and by_row.interval is not None
    width, narrow = (high - low for low, high in (by_subject.interval, by_row.interval))
    assert width > 5 * narrow


def test_under_ten_subjects_there_is_a_note_and_no_interval() -> None:
    few, enough = mean_of(*sample(9)), mean_of(*sample(10))
    assert (few.interval, few.note) == (None, SMALL_SAMPLE)
    assert enough.interval is not None and enough.note is None


@given(st.lists(st.floats(0, 1), min_size=30, max_size=60))
@settings(max_examples=20, deadline=None)
def test_an_interval_stays_within_the_values(values: list[float]) -> None:
    found = mean_of(values, [f"s{row % 12}" for row in range(len(values))])
    assert found.interval is not None
    low, high = found.interval
    assert min(values) - 1e-12 <= low <= high <= max(values) + 1e-12


def test_a_ratio_is_resampled_as_a_whole() -> None:
    accuracy, names = sample(12)
    reference = [min(1.0, value + 0.1) for value in accuracy]
    found = estimate(
        [accuracy, reference], names, lambda m: calibrated_success(*(unlearning_success(value) for value in m))
    )
    assert found.value == 100.0 and found.interval == (100.0, 100.0)


def test_a_figure_that_some_resample_leaves_undefined_has_no_interval() -> None:
    values = [1.0] * 11 + [0.0]
    found = estimate([values], [f"s{n}" for n in range(12)], lambda m: None if m[0] == 1.0 else m[0])
    assert (found.interval, found.note) == (None, UNDEFINED) and found.value == pytest.approx(11 / 12)


def test_nothing_measured_is_no_figure() -> None:
    assert mean_of([], []) == NOTHING
    assert NOTHING.value is None and NOTHING.n == 0


def test_hundreds_of_subjects_take_a_moment_only() -> None:
    values, names = sample(300)
    draws(0, 300)
    start = time.perf_counter()
    mean_of(values, names)
    assert time.perf_counter() - start < 1.0  # 0.05 s where it was measured
