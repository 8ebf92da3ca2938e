"""Which rows the tables have, which settings each runs with, and the queue of runs that they need.

Rows that carry a claim run on five seeds and take their learning rate from a grid of three points, tried at one seed on
the development half. A control (random regions, published masking) takes the point of the row that it controls: the
two differ in one thing alone. Other rows run once with their method's presets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from grail.config import UnlearnConfig

STEPS = 160
EXAMPLES_PER_STEP = 4
SCORE_EVERY_STEPS = 80
GRID = (5e-4, 1e-3, 2e-3)
"""Learning rates. Below, 160 steps change too little; 2e-3 is what the vanilla adapter was taught with."""
WEIGHTS = {"forget_weight": 3.0, "retain_weight": 1.0}
"""Those of GRAIL's `ascent`."""
SEEDS = (0, 1, 2, 3, 4)
MOST_RUNS = 90


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `settings` are those of UnlearnConfig beside the budget; `tuned_as` names the row whose grid it takes
    its learning rate from ("" for the presets); `is_claim`: five seeds. `selected`: the best checkpoint is kept, by the
    service's rule, which refuses to over-forget; else the last one, as in the paper."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned_as: str = ""
    is_claim: bool = False
    selected: bool = False

    def config(self, seed: int, learning_rate: float | None = None) -> UnlearnConfig:
        """The whole config of a run. Every row gets the same budget: steps and examples in each."""
        budget = {"steps": STEPS, "examples_per_step": EXAMPLES_PER_STEP, "score_every_steps": SCORE_EVERY_STEPS}
        settings = {**budget, **self.settings, "seed": seed}
        if learning_rate is not None:
            settings["learning_rate"] = learning_rate
        return UnlearnConfig(**settings)

    @property
    def figure(self) -> str:
        """What chooses a grid's point: the paper's HS, or for rows whose target is the reference cHS."""
        return "chs" if self.selected else "hs"


def _claims() -> list[Row]:
    rows = []
    for objective in ("ascent", "calibrated"):
        own, selected = f"GRAIL {objective}", objective == "calibrated"
        for regions, name, tuned_as in (
            ("localised", own, own),
            ("random", f"{own}, random regions", own),
            ("none", f"{own}, no regions", f"{own}, no regions"),
        ):
            rows.append(Row(name, {"objective": objective, "regions": regions}, tuned_as, True, selected))
    return [
        *rows,
        Row("GRAIL ascent, published masking", {"objective": "ascent", "mask_rule": "published"}, "GRAIL ascent", True),
        Row("ascent + descent, ID", {"method": "grad_diff", **WEIGHTS}, "ascent + descent, ID", True),
        Row("MemFlex", {"method": "memflex", **WEIGHTS}, "MemFlex", True),
    ]


def _others() -> list[Row]:
    ascent = {"objective": "ascent"}
    return [
        Row("gradient ascent", {"method": "grad_ascent"}),
        Row("random labels", {"method": "random_labels"}),
        Row("adversarial samples", {"method": "adversarial"}),
        Row("ascent + descent, OOD", {"method": "grad_diff_general", **WEIGHTS}, "ascent + descent, ID"),
        Row("ascent + KL, ID", {"method": "ascent_kl", **WEIGHTS}, "ascent + descent, ID"),
        Row("ascent + KL, OOD", {"method": "ascent_kl_general", **WEIGHTS}, "ascent + descent, ID"),
        Row(
            "GRAIL ascent, weights and no stop as published",
            {**ascent, "forget_weight": 0.4, "retain_weight": 2.0, "options": {"until": 0.0}}, "GRAIL ascent",
        ),
        Row("GRAIL ascent, without OP-UR", {**ascent, "k_ur": 0.0}, "GRAIL ascent"),
        Row("GRAIL ascent, without OP-RR", {**ascent, "k_rr": 0.0}, "GRAIL ascent"),
        Row("GRAIL ascent, k_ur 25 %", {**ascent, "k_ur": 0.25}, "GRAIL ascent"),
        Row("GRAIL ascent, k_rr 40 %", {**ascent, "k_rr": 0.40}, "GRAIL ascent"),
        Row("GRAIL ascent, zscore", {**ascent, "score": "zscore"}, "GRAIL ascent"),
        Row("GRAIL ascent, frozen", {**ascent, "mask_rule": "frozen"}, "GRAIL ascent"),
        Row(
            "sequential P>C", {**ascent, "regions": "none", "strategy": "privacy>copyright"}, "GRAIL ascent, no regions"
        ),
        Row(
            "sequential C>P", {**ascent, "regions": "none", "strategy": "copyright>privacy"}, "GRAIL ascent, no regions"
        ),
        Row(
            "GRAIL calibrated, over the vocabulary", {"objective": "calibrated", "options": {"over": "vocabulary"}},
            "GRAIL calibrated", selected=True,
        ),
        *(
            Row(f"GRAIL {objective}{end}", {"objective": objective, "regions": regions}, selected=True)
            for objective in ("hinge", "npo", "simnpo")
            for regions, end in (("localised", ""), ("none", ", no regions"))
        ),
    ]


ROWS = {row.name: row for row in (*_claims(), *_others())}
ON_LUME = (
    "GRAIL calibrated", "GRAIL ascent", "GRAIL calibrated, no regions", "GRAIL ascent, no regions",
    "ascent + descent, ID",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Task:
    """One run of the queue: a row on a half of a data set, at a seed, at a point of the grid (its learning rate) or,
    for `point` None, at the point chosen for the row."""

    corpus: str
    half: str
    row: str
    seed: int
    point: float | None = None

    @property
    def key(self) -> str:
        """The name of its result's file."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.row.lower())
        name = "-".join(part for part in words.split("-") if part)
        at = f"-at-{self.point:g}" if self.point is not None else ""
        return f"{self.corpus}-{self.half}-{name}{at}-seed-{self.seed}"


def queue() -> list[Task]:
    """Every run, in the order in which they are best done: the grid, one seed of every row, the other seeds, LUME."""
    grid = [
        Task("knowundo", "development", row.name, 0, point)
        for row in ROWS.values()
        if row.is_claim and row.tuned_as == row.name
        for point in GRID
    ]
    first = [Task("knowundo", "table", name, SEEDS[0]) for name in ROWS]
    more = [Task("knowundo", "table", row.name, s) for s in SEEDS[1:] for row in ROWS.values() if row.is_claim]
    lume = [Task("lume", "all", name, SEEDS[0]) for name in ON_LUME]
    tasks = [*grid, *first, *more, *lume]
    if len(tasks) > MOST_RUNS:
        raise ValueError(f"the queue has {len(tasks)} runs: at most {MOST_RUNS} are allowed")
    return tasks


Figure = Callable[[Task, str], float]
"""The figure (hs or chs) of a finished run."""


def learning_rate(task: Task, figure: Figure) -> float | None:
    """The rate that a task runs with: its own point, or the best of its row's grid; None for the presets.

    Raises KeyError while a run of the grid is still to be done.
    """
    row = ROWS[task.row]
    if task.point is not None or not row.tuned_as:
        return task.point
    tuned = ROWS[row.tuned_as]
    scores = {point: figure(Task("knowundo", "development", tuned.name, 0, point), tuned.figure) for point in GRID}
    return max(scores, key=lambda point: scores[point])
