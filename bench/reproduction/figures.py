"""Figures 3 and 4 of the paper, and all rows as a picture, from raw results alone. PNG, numbers beside them as CSV."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from reproduction.results import of_task, path_of, read
from reproduction.rows import ROWS, SEEDS, Row, Task

Picture = tuple[str, Path]
SWEEPS = (
    ("k_ur", (("GRAIL ascent, without OP-UR", 0), ("GRAIL ascent", 10), ("GRAIL ascent, k_ur 25 %", 25))),
    ("k_rr", (("GRAIL ascent, without OP-RR", 0), ("GRAIL ascent", 20), ("GRAIL ascent, k_rr 40 %", 40))),
)


def draw_all(out: Path) -> list[Picture]:
    """Every picture that has its results; nothing, said so, without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no pictures: matplotlib is not installed (pip install -e '.[bench]')")
        return []
    mpl.use("Agg")
    out.mkdir(parents=True, exist_ok=True)
    return [*jaccard(out), *sweeps(out), *scatter(out)]


def _task(row: str) -> Task:
    return Task("knowundo", "table", row, SEEDS[0])


def jaccard(out: Path) -> list[Picture]:
    """Overlap of the four sets' top entries: whole (figure 3) and per layer (forget against retain of each domain)."""
    task = _task("GRAIL ascent")
    if not path_of(task.key).is_file():
        return []
    found = read(task.key)["regions"]["jaccard"]
    path, layers = out / "figure_3_jaccard.png", out / "figure_3_jaccard_layers.png"
    _heat(found["whole"], found["labels"], "Jaccard index of the sets' top entries", path)
    _csv(
        path.with_suffix(".csv"),
        ["", *found["labels"]],
        [[n, *row] for n, row in zip(found["labels"], found["whole"], strict=True)],
    )
    pairs = [(i, j) for i in range(len(found["labels"])) for j in range(i)]
    names = [f"{found['labels'][j]} and {found['labels'][i]}" for i, j in pairs]
    lines = [[layer["name"], *(layer["matrix"][i][j] for i, j in pairs)] for layer in found["layers"]]
    _csv(layers.with_suffix(".csv"), ["layer", *names], lines)
    _curves(
        {name: [line[1 + place] for line in lines] for place, name in enumerate(names)},
        "layer",
        "Jaccard index",
        layers,
    )
    return [("Figure 3: overlap of the four sets", path), ("Figure 3, per layer", layers)]


def sweeps(out: Path) -> list[Picture]:
    """US, RS and HS over k_ur and over k_rr (figure 4)."""
    import matplotlib.pyplot as plt

    if not all(path_of(_task(row).key).is_file() for _, points in SWEEPS for row, _ in points):
        return []
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    lines = []
    for axis, (name, points) in zip(axes, SWEEPS, strict=True):
        for measure in ("us", "rs", "hs"):
            values = [of_task(_task(row))[measure] for row, _ in points]
            axis.plot([k for _, k in points], values, marker="o", label=measure.upper())
            lines.append(
                [name, measure.upper(), *(f"{k} %: {v:.2f}" for (_, k), v in zip(points, values, strict=True))]
            )
        axis.set_xlabel(f"{name}, % of each tensor's entries")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("points, mean of both domains")
    axes[1].legend()
    path = out / "figure_4_sweeps.png"
    _save(figure, path)
    _csv(path.with_suffix(".csv"), ["swept", "figure", "first", "second", "third"], lines)
    return [("Figure 4: sweeps of k_ur and k_rr, one seed", path)]


def scatter(out: Path) -> list[Picture]:
    """Forgetting against retention: every row at every seed, with the reference's place."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 5.4))
    drawn = 0
    for number, row in enumerate(ROWS.values()):
        points = [of_task(task) for task in _tasks(row) if path_of(task.key).is_file()]
        if points:
            axis.scatter(
                [p["us"] for p in points], [p["rs"] for p in points], label=row.name, s=22,
                marker="os^vDPX*"[number % 8], color=plt.get_cmap("tab20")(number % 20),
            )  # fmt: skip
            drawn += 1
    axis.set_xlabel("US, mean of both domains (validation rows)")
    axis.set_ylabel("RS, mean of both domains (validation rows)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    path = out / "forgetting_and_retention.png"
    _save(figure, path)
    return [("Forgetting and retention of every run", path)] if drawn else []


def _tasks(row: Row) -> list[Task]:
    return [Task("knowundo", "table", row.name, seed) for seed in (SEEDS if row.is_claim else SEEDS[:1])]


def _heat(matrix: list[list[float]], labels: list[str], title: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.2, 4.4))
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap="Blues")
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set_title(title)
    figure.colorbar(image)
    _save(figure, path)


def _curves(curves: dict[str, list[float]], x: str, y: str, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4))
    for name, values in curves.items():
        axis.plot(values, label=name)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _csv(path: Path, head: list[str], lines: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *lines])
