"""Raw results on disk, and every figure of the tables computed from them and from nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grail.metrics.success import (
    calibrated_success,
    forget_gap,
    harmonic,
    mean,
    retention_success,
    unlearning_success,
)
from reproduction.data import ROOT
from reproduction.rows import Task

RAW = ROOT / "docs" / "paper" / "raw"
T_975 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t at 97.5 % by the number of values: a 95 % interval of a mean over so many seeds."""
DOMAINS = ("privacy", "copyright")

Figures = dict[str, float]
"""By name: `us privacy`, `rs privacy`, `hs privacy`, ..., `hs`, `avg success`, `cus requested privacy`, ..., `chs`."""


def path_of(key: str) -> Path:
    """The file of a raw result."""
    return RAW / f"{key}.json"


def read(key: str) -> dict[str, Any]:
    """A raw result. Raises KeyError when the run is still to be done."""
    path = path_of(key)
    if not path.is_file():
        raise KeyError(f"{key} has not been run yet: python bench/paper.py run")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(key: str, result: Mapping[str, Any]) -> None:
    """Keep a raw result: written to a temporary name, then renamed."""
    path = path_of(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def reference_key(corpus: str, half: str) -> str:
    """The name of the rows without a seed."""
    return f"{corpus}-{half}-reference"


def figures(measured: Mapping[str, Mapping[str, Sequence[float]]], off: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Every figure of one adapter, from its raw measures and those with the adapter off (the reference)."""
    found: Figures = {}
    for domain in DOMAINS:
        us, us_off = (unlearning_success(mean(m[f"{domain}/forget_val"]["accuracy"])) for m in (measured, off))
        rs = retention_success(mean(measured[f"{domain}/retain_val"]["accuracy"]))
        asked, asked_off = (unlearning_success(mean(m[f"{domain}/forget_train"]["accuracy"])) for m in (measured, off))
        nll, nll_off = (mean(m[f"{domain}/forget_train"]["nll"]) for m in (measured, off))
        cus = calibrated_success(asked, asked_off) or 0.0
        found |= {
            f"us {domain}": us, f"rs {domain}": rs, f"hs {domain}": harmonic(us, rs),
            f"cus val {domain}": calibrated_success(us, us_off) or 0.0, f"us requested {domain}": asked,
            f"cus requested {domain}": cus, f"gap requested {domain}": forget_gap(asked, asked_off),
            f"chs {domain}": harmonic(cus, rs), f"log ppl ratio {domain}": nll - nll_off,
            f"nll requested {domain}": nll,
            f"nll val {domain}": mean(measured[f"{domain}/forget_val"]["nll"]),
            f"nll retain {domain}": mean(measured[f"{domain}/retain_val"]["nll"]),
        }  # fmt: skip
        for part in ("forget_val", "retain_val"):
            for kind in ("rouge_l_forced", "rouge_l_free"):
                values = [value for value in measured[f"{domain}/{part}"][kind] if value is not None]
                if values:
                    found[f"{kind} {part} {domain}"] = mean(values)
    for name in ("us", "rs", "hs", "chs"):
        found[name] = mean([found[f"{name} {domain}"] for domain in DOMAINS])
    found["avg success"] = mean([found["us"], found["rs"]])
    found["cus requested"] = mean([found[f"cus requested {domain}"] for domain in DOMAINS])
    return found


def of_task(task: Task, leg: int = -1) -> Figures:
    """The figures of a finished run, after its last (or another) leg. Raises KeyError."""
    off = read(reference_key(task.corpus, task.half))["rows"]["adapter off"]
    return figures(list(read(task.key)["legs"].values())[leg], off)


def of_grid(task: Task, name: str) -> float:
    """One figure of a finished run: what the grid's choice asks for."""
    return of_task(task)[name]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over `n` seeds with half the width of its 95 % interval (Student's t); None for a single seed."""

    value: float
    half_width: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (f" ± {self.half_width:.1f}" if self.half_width is not None else "")


def mean_over(values: Sequence[float]) -> Mean:
    """The mean over seeds."""
    n = len(values)
    if n < 2:
        return Mean(values[0], None, n)
    return Mean(float(np.mean(values)), T_975[n] * float(np.std(values, ddof=1)) / math.sqrt(n), n)
