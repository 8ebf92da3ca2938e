"""The reproduction's queue, its grid, its figures and tables, on raw results made up for the purpose."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from reproduction import figures, results, tables
from reproduction.data import PARTS, Corpus, DataAbsent, corpus, part_of
from reproduction.results import DOMAINS, mean_over, of_grid, of_task, reference_key
from reproduction.rows import GRID, MOST_RUNS, ON_LUME, ROWS, SEEDS, Task, learning_rate, queue

from grail.config import UnlearnConfig
from grail.types import Example, Role, Segment


def measured(seed: int, forget: float, retain: float) -> dict[str, dict[str, list[float]]]:
    """Measures of three rows a part whose accuracies lie about `forget` and `retain`."""
    draw = random.Random(seed)
    found = {}
    for domain in DOMAINS:
        for part in PARTS:
            middle = forget if part.startswith("forget") else retain
            accuracy = [min(1.0, max(0.0, middle + draw.uniform(-0.02, 0.02))) for _ in range(3)]
            found[f"{domain}/{part}"] = {
                "accuracy": accuracy, "nll": [3 - 2 * a for a in accuracy], "rouge_l_forced": [50.0] * 3,
                "rouge_l_free": [40.0] * 3,
            }  # fmt: skip
    return found


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A whole queue's results: learning rates matter, localised regions are the best, seeds differ a little."""
    monkeypatch.setattr(results, "RAW", tmp_path / "raw")
    monkeypatch.setattr(tables, "OUT", tmp_path)
    for name, half in (("knowundo", "development"), ("knowundo", "table"), ("lume", "all")):
        rows = {
            "vanilla": measured(1, 0.99, 0.99),
            "adapter off": measured(2, 0.4, 0.5),
            "retain only": measured(3, 0.4, 1),
        }
        results.write(reference_key(name, half), {"rows": rows, "commit": "abc"})
    jaccard = {
        "labels": ["a", "b"],
        "whole": [[1, 0.3], [0.3, 1]],
        "layers": [{"name": "0", "matrix": [[1, 0.2], [0.2, 1]]}],
    }
    for number, task in enumerate(queue()):
        retain = 0.9 - 0.05 * ("none" in str(ROWS[task.row].settings)) - 0.02 * (task.point == GRID[0])
        legs = dict.fromkeys(("first", "second")) if "strategy" in ROWS[task.row].settings else {"both": None}
        results.write(task.key, {
            "legs": {leg: measured(number, 0.1, retain) for leg in legs}, "seconds": {"unlearn": 10.0}, "commit": "abc",
            "regions": {"jaccard": jaccard},
        })  # fmt: skip
    yield tmp_path


def test_the_queue_is_bounded_and_every_run_has_a_name_of_its_own() -> None:
    tasks = queue()
    assert len(tasks) <= MOST_RUNS
    assert len({task.key for task in tasks}) == len(tasks)
    for row in ROWS.values():
        seeds = {t.seed for t in tasks if t.row == row.name and t.half == "table"}
        assert seeds == (set(SEEDS) if row.is_claim else {0})
    assert {t.row for t in tasks if t.corpus == "lume"} == set(ON_LUME)


def test_every_row_has_the_same_budget() -> None:
    budgets = {(c.steps, c.examples_per_step, c.micro_batch) for c in (row.config(0) for row in ROWS.values())}
    assert len(budgets) == 1


def test_rows_that_carry_a_claim_are_tuned_on_the_development_half_alone(raw: Path) -> None:
    for task in (t for t in queue() if t.half == "development"):
        assert task.point in GRID and task.seed == 0
    chosen = learning_rate(Task("knowundo", "table", "GRAIL ascent", 3), of_grid)
    scores = {p: of_grid(Task("knowundo", "development", "GRAIL ascent", 0, p), "hs") for p in GRID}
    assert chosen == max(scores, key=lambda p: scores[p])
    assert learning_rate(Task("knowundo", "table", "GRAIL ascent, random regions", 1), of_grid) == chosen
    assert learning_rate(Task("knowundo", "table", "gradient ascent", 0), of_grid) is None


def test_a_row_waits_for_its_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RAW", tmp_path)
    with pytest.raises(KeyError, match="has not been run yet"):
        learning_rate(Task("knowundo", "table", "MemFlex", 0), of_grid)


def test_figures_are_those_of_the_specification(raw: Path) -> None:
    off = measured(2, 0.5, 0.5)
    mine = {k: {n: list(v) for n, v in m.items()} for k, m in off.items()}
    for domain, us, rs in (("privacy", 90.72, 85.34), ("copyright", 98.75, 93.87)):
        mine[f"{domain}/forget_val"]["accuracy"] = [1 - us / 100] * 3
        mine[f"{domain}/retain_val"]["accuracy"] = [rs / 100] * 3
    found = results.figures(mine, off)
    assert found["hs privacy"] == pytest.approx(87.95, abs=0.005)
    assert found["hs copyright"] == pytest.approx(96.25, abs=0.005)
    assert found["hs"] == pytest.approx(92.10, abs=0.005)
    assert found["avg success"] == pytest.approx(92.17, abs=0.005)
    assert found["cus requested privacy"] == pytest.approx(100.0)
    assert found["log ppl ratio privacy"] == pytest.approx(0.0)


def test_an_interval_over_five_seeds_is_students() -> None:
    found = mean_over([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found.half_width == pytest.approx(2.776 * 1.5811388 / 5**0.5, rel=1e-3)
    assert str(found) == "3.0 ± 2.0" and str(mean_over([7.0])) == "7.0"


def test_every_table_and_picture_comes_from_the_raw_results(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "draw_all", lambda _: [])
    tables.write_all()
    text = (raw / "README.md").read_text()
    for title in ("Table I", "Table IV", "Table V", "Table VI", "Objectives", "Paired differences", "The grid"):
        assert title in text
    rows = [line.split(",")[0].strip('"') for line in (raw / "table_1_methods.csv").read_text().splitlines()[1:]]
    assert {"vanilla", "adapter off", "retain only", "MemFlex", "GRAIL ascent"} <= {row.split('"')[0] for row in rows}
    hs = [
        float(line.split(",")[-2].split()[0]) for line in (raw / "table_4_ablations.csv").read_text().splitlines()[1:]
    ]
    assert hs == sorted(hs, reverse=True) and len(hs) == 8


def test_pictures_are_drawn_where_matplotlib_is(raw: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (the extra `bench`) is not installed")
    names = {path.name for _, path in figures.draw_all(raw)}
    assert names == {
        "figure_3_jaccard.png", "figure_3_jaccard_layers.png", "figure_4_sweeps.png", "forgetting_and_retention.png"
    }  # fmt: skip
    assert all((raw / name).stat().st_size > 5_000 for name in names)


def test_a_run_with_two_legs_shows_both_states(raw: Path) -> None:
    task = Task("knowundo", "table", "sequential P>C", 0)
    stored = json.loads(results.path_of(task.key).read_text())
    stored["legs"]["first"] = measured(1, 0.9, 0.9)
    results.write(task.key, stored)
    assert of_task(task, 0)["us"] < 20 < of_task(task)["us"]


def small(subjects: int) -> Corpus:
    return Corpus("small", tuple(
        Example(f"{domain}/{part}/{n:04d}", domain, Segment(part.split("_")[0]), f"{domain} {n}", "q", "a")
        for domain in DOMAINS for part in PARTS for n in range(subjects)
    ))  # fmt: skip


def test_the_halves_are_split_by_subject_and_share_none() -> None:
    data = small(25)
    one, other, whole = (data.half(which) for which in ("development", "table", "all"))
    for domain in DOMAINS:
        assert not one[domain] & other[domain] and one[domain] | other[domain] == whole[domain]
        assert (len(one[domain]), len(other[domain])) == (12, 13)
    assert {part_of(e) for e in data.of(one, "forget_val")} == {"forget_val"}


def test_the_data_is_what_it_says() -> None:
    for name in ("knowundo", "lume"):
        try:
            data = corpus(name)
        except DataAbsent as absent:
            pytest.skip(str(absent))
        assert set(data.subjects) == set(DOMAINS)
        for example in data.examples:
            part = part_of(example)
            assert example.segment == part.split("_")[0]
            assert (example.role is Role.ITEM) == part.endswith("train")
    assert UnlearnConfig(**ROWS["GRAIL calibrated"].config(0).as_dict()) == ROWS["GRAIL calibrated"].config(0)
