"""Files as requests: every right row as it was meant, every wrong one by line and field, in memory that stays flat."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.imports.rows import COLUMNS, Fault, Row, rows_of
from app.tables import ImportForm
from tests.fixtures.served import question

MOST, ROWS = 10_000, 6_000
BASE = {"served_model": "people", "domain": "privacy"}
HEADER = "served_model,domain,segment,prompt,completion,passage,facts,subject,client_reference,note"
SECRET = "Brandmayr"


def read(form: ImportForm, content: str | bytes, most: int = MOST) -> list[Row]:
    raw = content.encode() if isinstance(content, str) else content
    return list(rows_of(form, io.BytesIO(raw), max_row_bytes=most, max_rows=ROWS))


def jsonl(*rows: Any) -> list[Row]:
    return read(ImportForm.JSONL, "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))


def faults(rows: list[Row]) -> list[tuple[int, str]]:
    return [(fault.line, fault.field) for row in rows for fault in row.faults]


def test_each_line_is_a_request() -> None:
    bodies = [{**BASE, "forget": [question(n)], "retain": [question(n + 100)], "note": f"n{n}"} for n in range(3)]
    rows = jsonl(bodies[0], "", bodies[1], "   ", bodies[2])
    assert [(row.line, row.number) for row in rows] == [(1, 1), (3, 2), (5, 3)]
    assert [row.payload.model_dump(mode="json", exclude_defaults=True) for row in rows if row.payload] == bodies


def test_wrong_lines_are_named_and_the_others_are_read() -> None:
    rows = jsonl(
        {**BASE, "forget": [question(1)]}, "{", "[]", {**BASE, "forget": [{"prompt": SECRET}]},
        {**BASE, "domain": SECRET, SECRET: 1}, {**BASE, "forget": [question(2)]},
    )  # fmt: skip
    assert [row.payload is not None for row in rows] == [True, False, False, False, False, True]
    assert faults(rows) == [(2, "row"), (3, "body"), (4, "forget.0"), (5, "domain"), (5, "(unknown name)")]
    assert SECRET not in str([fault.as_line() for row in rows for fault in row.faults])


@pytest.mark.parametrize("raw", [b"\xff\xfe{}", b'{"note": "\xff"}', b'{"a":' * 5000], ids=["start", "inside", "deep"])
def test_bytes_that_are_no_text_are_a_fault_of_their_line(raw: bytes) -> None:
    good = json.dumps({**BASE, "forget": [question(1)]}).encode()
    rows = read(ImportForm.JSONL, good + b"\n" + raw + b"\n" + good, most=100_000)
    assert [row.payload is not None for row in rows] == [True, False, True]
    assert [line for line, _ in faults(rows)] == [2]


def test_a_line_that_is_too_long_is_skipped_whole() -> None:
    good = json.dumps({**BASE, "forget": [question(1)]})
    rows = read(ImportForm.JSONL, f"{good}\n{'x' * 150_000}\n{good}\n", most=len(good) + 1)
    assert [row.payload is not None for row in rows] == [True, False, True]
    assert rows[2].line == 3


def test_a_mark_of_byte_order_is_no_text() -> None:
    good = json.dumps({**BASE, "forget": [question(1)]}).encode()
    assert read(ImportForm.JSONL, b"\xef\xbb\xbf" + good)[0].payload is not None
    (row,) = read(ImportForm.CSV, b"\xef\xbb\xbf" + f"{HEADER}\npeople,privacy,forget,,,p,,,,\n".encode())
    assert row.payload is not None


TEXT = st.text(st.sampled_from("ab,\"'|\n;\\ é\t"), min_size=1, max_size=6).filter(lambda text: bool(text.strip()))
WORD = st.text(st.sampled_from("ab-é,\""), min_size=1, max_size=4)
ITEMS = st.one_of(
    st.fixed_dictionaries(
        {"segment": st.sampled_from(["forget", "retain"]), "prompt": TEXT, "completion": TEXT},
        optional={"facts": st.lists(WORD, min_size=1, max_size=3), "subject": TEXT},
    ),
    st.fixed_dictionaries({"segment": st.sampled_from(["forget", "retain"]), "passage": TEXT}),
)
META = st.fixed_dictionaries(
    {"served_model": st.sampled_from(["people", "books"]), "domain": st.sampled_from(["privacy", "copyright"])},
    optional={"note": WORD, "legal_basis": WORD, "subject_reference": WORD},
)
REQUESTS = st.lists(st.tuples(META, st.lists(ITEMS, min_size=1, max_size=4), st.booleans()), max_size=5)


@given(requests=REQUESTS, columns=st.permutations(COLUMNS), ending=st.sampled_from(["\n", "\r\n"]), data=st.data())
def test_rows_of_one_reference_are_one_request_and_others_one_each(
    requests: list[Any], columns: list[str], ending: str, data: st.DataObject
) -> None:
    """Against the obvious: requests are written as rows and have to come back as they were."""
    written, wanted = io.StringIO(newline=""), []
    sheet = csv.DictWriter(written, columns, lineterminator=ending)
    sheet.writeheader()
    for number, (meta, items, grouped) in enumerate(requests):
        own = {**meta, "client_reference": f"ref-{number}"} if grouped else meta
        for place, item in enumerate(items):
            shown = own if place == 0 or not grouped else data.draw(st.sampled_from([own, {**own, "note": ""}]))
            sheet.writerow({**shown, **item, "facts": "|".join(item.get("facts", []))})
        parts = [items] if grouped else [[item] for item in items]
        for part in parts:
            body: dict[str, Any] = dict(own)
            for item in part:
                kept = {name: value for name, value in item.items() if name != "segment"}
                body.setdefault(item["segment"], []).append(kept)
            wanted.append(body)
    rows = read(ImportForm.CSV, written.getvalue())
    assert faults(rows) == []
    assert [row.payload.model_dump(mode="json", exclude_defaults=True) for row in rows if row.payload] == wanted
    assert [row.number for row in rows][-1:] in ([], [sum(len(items) for _, items, _ in requests)])


def sheet(*lines: str) -> list[Row]:
    return read(ImportForm.CSV, "\n".join([HEADER, *lines]))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["people,privacy,forget,,,a,,,r,", "people,privacy,forget,,,b,,,s,", "people,privacy,forget,,,c,,,r,"],
         [(4, "client_reference")]),
        (["people,privacy,forget,,,a,,,r,one", "people,privacy,forget,,,b,,,r,two"], [(3, "note")]),
        (["people,privacy,forget,,,a,,,r,", "people,privacy,perhaps,,,b,,,r,"], [(3, "segment")]),
        (["people,privacy,forget,,,a,,,r"], [(2, "row")]),
        (["people,privacy,forget,,,a,,,r,,extra"], [(2, "row")]),
        (["people,privacy,forget,,,a,,,r,", "people,privacy,forget,p,,,,,r,"], [(3, "row")]),
        (["people,secrets,forget,,,a,,,,"], [(2, "domain")]),
        (["people,privacy,forget,,,a\x00b,,,,"], [(2, "passage")]),
        (["people,privacy,forget,,,\"a\nb\",,,r,", "people,privacy,forget,p,,,,,r,"], [(4, "row")]),
        (["people,privacy,forget,,,a,,,,", "people,privacy,forget,,,\"open,,,,", "people,privacy,forget,,,b,,,,"],
         [(3, "row")]),
        (["people,privacy,forget,,,\"a\"b,,,,"], [(2, "row")]),
        ([f"people,privacy,forget,,,{'x' * MOST},,,,"], [(2, "row")]),
    ],
    ids=["apart", "another note", "segment", "few cells", "many cells", "half an item", "domain", "nul", "lines",
         "open quote", "text after a quote", "too long"],
)  # fmt: skip
def test_what_is_wrong_with_a_sheet_is_said_by_line_and_column(
    lines: list[str], expected: list[tuple[int, str]]
) -> None:
    assert faults(sheet(*lines)) == expected


@pytest.mark.parametrize(
    "header", ["", "served_model,domain", HEADER + ",note", HEADER + f",{SECRET}", '"open', "x" * (MOST + 1)]
)
def test_a_header_that_is_none_ends_the_reading(header: str) -> None:
    rows = read(ImportForm.CSV, f"{header}\npeople,privacy,forget,,,a,,,,\n")
    assert faults(rows) == [(1, "row")]
    assert SECRET not in str(rows[0].faults)


def test_bytes_that_are_no_text_are_a_fault_of_their_cell() -> None:
    raw = f"{HEADER}\npeople,privacy,forget,,,".encode() + b"\xff" + b",,,,\npeople,privacy,forget,,,b,,,,\n"
    rows = read(ImportForm.CSV, raw)
    assert faults(rows) == [(2, "passage")]
    assert rows[1].payload is not None


def test_a_request_of_very_many_rows_is_refused_without_gathering_them() -> None:
    (row,) = sheet(*(f"people,privacy,forget,,,text {n},,,r," for n in range(5000)))
    assert row.payload is None
    assert [fault.field for fault in row.faults] == ["forget"]
    assert len(row.items) == 501
    assert row.number == 5000


def test_faults_of_later_checks_are_placed_at_their_rows() -> None:
    (row,) = sheet("people,privacy,forget,,,a,,,r,", "people,privacy,retain,,,b,,,r,", "people,privacy,forget,,,c,,,r,")
    problems = [{"field": "forget.1", "problem": "x"}, {"field": "retain.0.facts.2", "problem": "y"},
                {"field": "served_model", "problem": "z"}]  # fmt: skip
    assert row.faults_of(problems) == [Fault(4, "row", "x"), Fault(3, "facts.2", "y"), Fault(2, "served_model", "z")]


def jsonl_line(number: int) -> str:
    return json.dumps({**BASE, "forget": [question(number)]})


def csv_line(number: int) -> str:
    return f"people,privacy,forget,,,text {number},,,ref {number},"


def test_more_rows_than_allowed_are_not_read() -> None:
    rows = sheet(*(csv_line(number) for number in range(ROWS + 5)))
    assert [row.payload is None for row in rows] == [False] * ROWS + [True]
    assert faults(rows) == [(ROWS + 2, "row")]


@pytest.mark.parametrize(
    ("form", "line"), [(ImportForm.JSONL, jsonl_line), (ImportForm.CSV, csv_line)], ids=["jsonl", "csv"]
)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, form: ImportForm, line: Callable[[int], str]) -> None:

    def peak(count: int) -> int:
        path = tmp_path / str(count)
        with path.open("w") as file:
            file.write(HEADER + "\n" if form is ImportForm.CSV else "")
            file.writelines(line(number) + "\n" for number in range(count))
        with path.open("rb") as raw:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert sum(1 for _ in rows_of(form, raw, max_row_bytes=MOST, max_rows=ROWS)) == count
            return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak(5_000)  # the JSON parser has a cache of strings, which is full then
        small, large = peak(500), peak(5_000)
    finally:
        tracemalloc.stop()
    assert large - small < 4_500 * 4  # bytes a row
