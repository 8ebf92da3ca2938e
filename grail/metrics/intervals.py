"""Bootstrap 95 % intervals that resample subjects, not rows; an auditor's stand-alone script gets the same digits.

To recompute one, from a report's per-example values:

1. Rows: those of the group, sorted by example id. Subjects: in the order in which they first appear in the rows (never
   by name: reports hold no names). S is their number; with S < 10 there is no interval, only the note `small sample`.
2. Draws: block c (c = 0, 1, 2, ...) is SHA-256(seed as 8 bytes big-endian || c as 8 bytes big-endian). Its 32 bytes are
   four unsigned 64-bit big-endian words. All words of all blocks, in order, are w_0, w_1, w_2, ...
   Draw j (0 <= j < S) of resample r (0 <= r < 2000) is the subject at index w_(r * S + j) mod S. The seed is 0.
3. Columns: each column's value sum of a subject is the math.fsum over its rows; of a resample, the math.fsum over the
   drawn subjects' sums, divided by the sum of their row counts: the column's mean.
4. Statistic: a function of those means (the mean itself, or cUS of two of them, or exp of one).
5. Interval: sort the 2000 statistics ascending; the values at 0-based ranks 50 and 1949.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

RESAMPLES = 2_000
SEED = 0
FEW_SUBJECTS = 10
SMALL_SAMPLE = "small sample"
UNDEFINED = "not defined in every resample"
WORDS_PER_BLOCK = 4
LOW_RANK, HIGH_RANK = RESAMPLES * 25 // 1000, RESAMPLES - RESAMPLES * 25 // 1000 - 1

Statistic = Callable[[Sequence[float]], float | None]
"""Column means in, a figure out; None where it is not defined."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over `n` values of `subjects` subjects. Where there is no 95 % `interval`, `note` says why."""

    value: float | None
    n: int
    subjects: int
    interval: tuple[float, float] | None = None
    note: str | None = None


NOTHING = Estimate(None, 0, 0)
"""Nothing was measured."""


@lru_cache(maxsize=8)
def draws(seed: int, subjects: int, resamples: int = RESAMPLES) -> npt.NDArray[np.int64]:
    """Subject indices of every resample, (resamples, subjects), as the module's docstring lays down."""
    words = resamples * subjects
    head = seed.to_bytes(8, "big")
    blocks = -(-words // WORDS_PER_BLOCK)
    stream = b"".join(hashlib.sha256(head + block.to_bytes(8, "big")).digest() for block in range(blocks))
    found = np.frombuffer(stream, dtype=">u8")[:words] % np.uint64(subjects)
    return found.astype(np.int64).reshape(resamples, subjects)


def estimate(
    columns: Sequence[Sequence[float]], subjects: Sequence[str], statistic: Statistic, seed: int = SEED
) -> Estimate:
    """`statistic` of the columns' means over rows, with its bootstrap interval over subjects.

    Every column has one finite value a row; `subjects` names each row's subject; rows stand in the order of their ids.
    """
    count = len(subjects)
    if not count:
        return NOTHING
    value = statistic([math.fsum(column) / count for column in columns])
    places: dict[str, list[int]] = {}
    for row, subject in enumerate(subjects):
        places.setdefault(subject, []).append(row)
    if value is None:
        return Estimate(None, count, len(places))
    if len(places) < FEW_SUBJECTS:
        return Estimate(value, count, len(places), note=SMALL_SAMPLE)
    found = _resampled(columns, list(places.values()), statistic, seed)
    if found is None:
        return Estimate(value, count, len(places), note=UNDEFINED)
    return Estimate(value, count, len(places), (found[LOW_RANK], found[HIGH_RANK]))


def _resampled(
    columns: Sequence[Sequence[float]], places: Sequence[Sequence[int]], statistic: Statistic, seed: int
) -> list[float] | None:
    """The statistic of every resample, ascending; None when one of them is not defined."""
    rows = draws(seed, len(places))  # (R, S)
    sizes = np.array([len(place) for place in places])[rows].sum(axis=1).tolist()
    means = []
    for column in columns:
        sums = np.array([math.fsum(column[row] for row in place) for place in places])
        means.append([math.fsum(row) / size for row, size in zip(sums[rows].tolist(), sizes, strict=True)])
    found = [statistic(values) for values in zip(*means, strict=True)]
    defined = [value for value in found if value is not None]
    return sorted(defined) if len(defined) == len(found) else None


def mean_of(values: Sequence[float], subjects: Sequence[str], seed: int = SEED) -> Estimate:
    """The plain mean of one column."""
    return estimate([values], subjects, lambda means: means[0], seed)
