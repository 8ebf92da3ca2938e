"""Tables of a report: every figure with its n and its interval. Pure: a document in, tables out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from app.reports import prongs
from app.reports.blocks import Cell, Column, Row, Table, Tone
from app.reports.words import (
    NOT_CERTIFIED,
    UNDEFINED,
    WHEN,
    Document,
    against,
    check_name,
    counted,
    due,
    group_name,
    measure_name,
    measured,
    moment,
    number,
    scope_name,
    short_id,
    wanted,
)

SUMMARY = (
    ("us", "Unlearning success (US), %"),
    ("rs", "Retention success (RS), %"),
    ("hs", "Harmonic mean of US and RS (HS), %"),
    ("cus", "Calibrated success (cUS), %"),
    ("chs", "Harmonic mean of cUS and RS (cHS), %"),
    ("avg_success", "Plain mean of US and RS, %"),
)
WHENS = (Column("Before", 1.3, True), Column("After", 1.3, True), Column("Never knew", 1.3, True))
OUTCOMES: dict[str, Tone] = {
    "forgotten": "good", "kept": "good", "in base": "wait", "in_base": "wait", "forgotten in part": "wait",
    "not forgotten": "bad", "not_forgotten": "bad", "lost": "bad",
}  # fmt: skip
CONTROLS = {"us": "US, %", "cus": "cUS, %", "forget_gap": "Gap, points", "rs": "RS, %"}
CONTROL_RUNS = {"random": "Random regions of the same size", "none": "No regions"}
OUTCOME_WORDS = {"in base": "in base: not certified", "in_base": "in base: not certified"}


def summary(document: Document) -> Table:
    """US, RS, HS, cUS and cHS of each domain and their means."""
    rows: list[Row] = []
    for scope, figures in document["summary"].items():
        title = "Mean over the domains" if scope == "mean" else scope_name(scope)
        rows.append(_band(title))
        for key, name in SUMMARY:
            rows.append(Row((Cell(name), *(Cell(number(figures[when][key])) for when in WHEN))))
    return Table("The success measures in short", (Column("Measure", 2.6), *WHENS), tuple(rows))


def measures(document: Document, domain: str) -> Table:
    """Every measure of every group of one domain."""
    rows: list[Row] = []
    for group, found in document["metrics"][domain].items():
        note = _common_note(found)
        subjects = counted(found["success"]["after"]["subjects"], "subject")
        rows.append(_band(group_name(group), f"{subjects}: {note}, no intervals" if note else subjects))
        rows += [_measure(name, group, cells, note) for name, cells in found.items()]
    columns = (Column("Measure", 2.6), *WHENS, Column("n", 0.75, True))
    return Table(f"Every measure of the domain {domain}", columns, tuple(rows))


def _common_note(measures: Mapping[str, Any]) -> str:
    """What is noted at every figure of a group, so that it need be said only once."""
    notes = {cell["note"] for cells in measures.values() for cell in cells.values() if cell["n"]}
    return notes.pop() or "" if len(notes) == 1 else ""


def _measure(name: str, group: str, cells: Mapping[str, Any], said: str) -> Row:
    shown = [measured(cells[when], digits=2 if name == "perplexity" else 1) for when in WHEN]
    figures = (Cell(value, "" if under == said else under) for value, under in shown)
    return Row((Cell(measure_name(name, group)), *figures, Cell(f"{cells['after']['n']:,}")))


def checks(document: Document) -> Table:
    """Every check of the gate with its value, its bound and whether it held."""
    return checks_of(document["gate"]["checks"], "Every check that the candidate had to pass")


def checks_of(checks: Iterable[Mapping[str, Any]], caption: str) -> Table:
    """Checks by their scopes."""
    rows: list[Row] = []
    for scope, found in groupby(checks, key=lambda check: str(check["scope"])):
        rows.append(_band(scope_name(scope)))
        rows += [_check(check) for check in found]
    columns = (Column("Check", 2.7), Column("Found", 1.2, True), Column("Bound", 1.2, True), Column("n", 0.7, True),
               Column("Held", 0.9))  # fmt: skip
    return Table(caption, columns, tuple(rows))


def _check(check: Mapping[str, Any]) -> Row:
    plain, unit = check_name(check["name"])
    name, count = Cell(f"{plain}, {unit}" if unit else plain, check["name"]), Cell(f"{check['n']:,}")
    if check["name"] == NOT_CERTIFIED:
        return Row((name, Cell("none of them"), Cell("no bound"), count, Cell("not certified", tone="wait")))
    value, bound = against(check["value"], check["bound"])
    interval = check.get("interval")
    under = f"{number(interval[0])} to {number(interval[1])}" if interval else ""
    held = Cell("held", tone="good") if check["ok"] else Cell("did not hold", tone="bad")
    return Row((name, Cell(value, under), Cell(f"{wanted(check)} {bound}"), count, held))


def prong(figures: Iterable[Mapping[str, Any]], caption: str) -> Table:
    """What was measured of one of two questions, in one domain."""
    rows: list[Row] = []
    for group, found in groupby(figures, key=lambda figure: str(figure["group"])):
        inside = list(found)
        notes = {figure["note"] for figure in inside}
        note = str(notes.pop() or "") if len(notes) == 1 else ""
        subjects = counted(inside[0]["subjects"], "subject")
        rows.append(_band(group_name(group), f"{subjects}: {note}, no intervals" if note else subjects))
        rows += [_prong(figure, note) for figure in inside]
    return Table(caption, (Column("Measure", 2.6), *WHENS, Column("n", 0.75, True)), tuple(rows))


def _prong(figure: Mapping[str, Any], said: str) -> Row:
    name = prongs.name(figure)
    digits = 2 if "perplexity" in figure["measure"] else 1
    shown = {when: number(math.inf if figure[when] == "inf" else figure[when], digits) for when in WHEN}
    interval = figure["interval"]
    under = f"{number(interval[0], digits)} to {number(interval[1], digits)}" if interval else figure["note"] or ""
    under = "" if under == said else under
    cells = (Cell(shown[when], under if when == "after" else "") for when in WHEN)
    return Row((Cell(name), *cells, Cell(f"{figure['n']:,}")))


def requests(document: Document) -> Table:
    """What became of each request."""
    columns = (
        Column("Request", 2.7), Column("Domain", 1.5), Column("Legal basis", 2.4), Column("Asked", 1.9),
        Column("Outcome", 1.7), Column("Figures", 1.7), Column("Checks", 1.3),
    )  # fmt: skip
    ended = document["job"]["finished_at"]
    rows = tuple(_request(request, ended) for request in document["requests"])
    return Table("What became of each request", columns, rows, stacks=True)


def _request(request: Mapping[str, Any], ended: str | None) -> Row:
    held = [check["ok"] for check in request["checks"] if check["name"] != NOT_CERTIFIED]
    known = f", {request['in_base']} in base" if request["in_base"] else ""
    probes = counted(request["probes"], "probe")
    figures = request["metrics"]
    own = {"cUS": figures["cus"], "RS": figures["rs"]}
    shown = [f"{name} {number(value)}" for name, value in own.items() if value is not None]
    gap = figures["forget_gap"]
    return Row(
        (
            Cell(request["id"], f"received {moment(request['received_at'])}", is_code=True),
            Cell(request["domain"], due(request["due_at"], ended)),
            Cell(request["legal_basis"] or "not stated", is_free=True),
            Cell(f"{request['forget_items']} to go{known}", f"{request['retain_items']} to stay, {probes}"),
            _outcome(request["outcome"]),
            Cell(", ".join(shown) or UNDEFINED, f"gap {number(gap)}" if gap is not None else ""),
            _held(held),
        )
    )


def _held(held: list[bool]) -> Cell:
    if not held:
        return Cell("no bound applied")
    return Cell(f"{sum(held)} of {len(held)} held", tone="good" if all(held) else "bad")


def _outcome(outcome: str | None) -> Cell:
    if outcome is None:
        return Cell("measured only")
    return Cell(OUTCOME_WORDS.get(outcome, outcome.replace("_", " ")), tone=OUTCOMES.get(outcome, ""))


def examples(document: Document) -> Table:
    """Every example by its id, with what was measured on it before, after, and under a model that never knew."""
    columns = (
        Column("Example", 3.0), Column("Kind", 1.5), Column("Accuracy, %", 1.25, True),
        Column("Loss, nats", 1.25, True), Column("ROUGE-L forced", 1.25, True), Column("ROUGE-L free", 1.25, True),
        Column("Fact in answer", 1.2, True), Column("Outcome", 1.35),
    )  # fmt: skip
    rows = tuple(_example(example) for example in document["examples"])
    caption = f"{counted(len(rows), 'example')}: before → after, beneath it a model that never knew"
    return Table(caption, columns, rows, stacks=True, is_long=True)


def _example(example: Mapping[str, Any]) -> Row:
    request = example["request"]
    of = f"request {short_id(request)}" if request else "standing retain set"
    scores = [example[when] for when in WHEN]

    def path(key: str, factor: float = 1.0, digits: int = 1) -> Cell:
        shown = [UNDEFINED if s[key] is None else number(s[key] * factor, digits) for s in scores]
        return Cell(UNDEFINED) if set(shown) == {UNDEFINED} else Cell(f"{shown[0]} → {shown[1]}", shown[2])

    facts = [{True: "yes", False: "no"}.get(s["fact"], UNDEFINED) for s in scores]
    return Row(
        (
            Cell(example["id"], f"subject {example['subject_id']}, {of}", is_code=True),
            Cell(f"{example['segment']} {example['role']}", example["domain"]),
            path("accuracy", 100.0),
            path("nll", digits=2),
            path("rouge_l_forced"),
            path("rouge_l_free"),
            Cell(UNDEFINED) if set(facts) == {UNDEFINED} else Cell(f"{facts[0]} → {facts[1]}", facts[2]),
            _outcome(example["outcome"]),
        )
    )


def controls(document: Document) -> Table:
    """The same run with other regions, for comparison."""
    columns = (Column("Run", 2.0), *(Column(name, 1.0, True) for name in CONTROLS.values()))
    rows: list[Row] = []
    for control in document["controls"]:
        rows.append(_band(CONTROL_RUNS.get(control["regions"], control["regions"])))
        for domain, found in control["domains"].items():
            rows.append(Row((Cell(domain), *(Cell(number(found[key])) for key in CONTROLS))))
    return Table("Control runs", columns, tuple(rows))


def ability(found: Mapping[str, Any]) -> Table:
    """Answers to the served model's own probe questions."""
    columns = (Column("Right choices", 2.0), *WHENS[:2], Column("Change, points", 1.3, True), Column("n", 0.75, True))
    shown = [Cell(*measured(found[key])) for key in ("before", "after", "change")]
    row = Row((Cell("General ability, %"), *shown, Cell(f"{found['drawn']:,}")))
    return Table("General ability", columns, (row,))


def decisions(approvals: Iterable[Mapping[str, Any]]) -> Table:
    """What officers decided about a candidate."""
    columns = (Column("Decision", 0.8), Column("Role", 0.8), Column("Key", 1.8), Column("When", 1.2))
    tones: dict[str, Tone] = {"approved": "good", "refused": "bad"}
    rows = tuple(
        Row(
            (
                Cell(one["decision"], tone=tones.get(one["decision"], "")), Cell(one["role"]),
                Cell(one["key_id"], is_code=True), Cell(moment(one["at"])),
            )
        )
        for one in approvals
    )  # fmt: skip
    return Table("Who decided about the candidate", columns, rows, stacks=True)


def _band(title: str, under: str = "") -> Row:
    return Row((Cell(title, under),), is_band=True)
