"""The rows of a file as requests, one after the other, in memory that does not grow with them. Pure: bytes in.

JSONL has one request a line, as POST /v1/requests takes it. CSV has one item a row; rows that stand together under the
same `client_reference` are one request, others one each. What is wrong is said by line and field, never by text.
"""

from __future__ import annotations

import csv
import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pydantic import ValidationError

from app.errors import problems_of
from app.requests.schemas import BOUNDS, RequestCreate
from app.tables import ImportForm
from grail.types import Segment

COLUMNS_OF_REQUEST = (
    "served_model", "domain", "subject_reference", "legal_basis", "client_reference", "note", "regulation",
    "received_at",
)  # fmt: skip
COLUMNS_OF_ITEM = ("segment", "prompt", "completion", "passage", "facts", "subject")
COLUMNS = (*COLUMNS_OF_REQUEST, *COLUMNS_OF_ITEM)
NEEDED = ("served_model", "domain", "segment")
TEXTS = ("prompt", "completion", "passage", "subject")
FAULTS_A_ROW = 10
BETWEEN_FACTS = "|"
ROW = "row"
"""What a fault names that belongs to no field."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at which line, in which field. Never with the text."""

    line: int
    field: str
    problem: str

    def as_line(self) -> bytes:
        """For the file of faults."""
        return json.dumps({"line": self.line, "field": self.field, "problem": self.problem}).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Row:
    """One request of the file, or what is wrong with it. `number` counts the file's rows up to its end; `items` has the
    line of each item where they have lines of their own."""

    line: int
    last_line: int
    number: int
    payload: RequestCreate | None = field(repr=False)
    faults: Sequence[Fault] = ()
    items: Mapping[str, int] = field(default_factory=dict)

    def faults_of(self, problems: Sequence[Mapping[str, Any]]) -> list[Fault]:
        """Problems by field (`forget.3.facts.0`), each at the line that it comes from."""
        return [_placed(self.line, self.items, str(p["field"]), str(p["problem"])) for p in problems[:FAULTS_A_ROW]]


def rows_of(form: ImportForm, file: BinaryIO, *, max_row_bytes: int, max_rows: int) -> Iterator[Row]:
    """The rows of a file, from its present position on. One that has too many, or can not be read any further, ends
    with the fault that says so."""
    rows = _jsonl(file, max_row_bytes) if form is ImportForm.JSONL else _csv(file, max_row_bytes, max_rows)
    for row in rows:
        if row.number > max_rows:
            why = f"the file has more than {max_rows} rows; nothing after them was read"
            yield Row(row.line, row.last_line, max_rows + 1, None, [Fault(row.line, ROW, why)])
            return
        yield row


def _jsonl(file: BinaryIO, max_row_bytes: int) -> Iterator[Row]:
    line = number = 0
    while raw := file.readline(max_row_bytes + 1):
        line += 1
        whole = len(raw) <= max_row_bytes
        if not whole:
            _skip_line(file, raw)
        if whole and not raw.strip():
            continue
        number += 1
        faults: list[Fault] = []
        payload = None
        if whole:
            payload, problems = _parsed(raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw)
            faults = [Fault(line, p["field"], p["problem"]) for p in problems]
        else:
            faults = [Fault(line, ROW, f"the row has more than {max_row_bytes} bytes")]
        yield Row(line, line, number, payload, faults)


def _skip_line(file: BinaryIO, start: bytes) -> None:
    part = start
    while part and not part.endswith(b"\n"):
        part = file.readline(65536)


def _parsed(raw: bytes | dict[str, Any]) -> tuple[RequestCreate | None, list[dict[str, str]]]:
    """A request, or what is wrong with it by field."""
    try:
        made = RequestCreate.model_validate(raw) if isinstance(raw, dict) else RequestCreate.model_validate_json(raw)
        return made, []
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        if any(entry["type"] == "json_invalid" for entry in found):
            return None, [{"field": ROW, "problem": "the row is not well-formed JSON"}]
        return None, problems_of(found)[:FAULTS_A_ROW]


class _Unreadable(Exception):
    """Nothing further can be read; says why."""


class _Feed:
    """Lines of text for the CSV reader, each record bounded. Bytes that are no UTF-8 become what no field may hold."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self.file, self.max_bytes, self.size = file, max_bytes, 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        raw = self.file.readline(self.max_bytes + 1)
        if not raw:
            raise StopIteration
        self.size += len(raw)
        if self.size > self.max_bytes:
            raise _Unreadable(f"the row has more than {self.max_bytes} bytes")
        return raw.decode("utf-8", "surrogateescape")


@dataclass(slots=True)
class _Group:
    """Rows of one request."""

    line: int
    last_line: int
    number: int
    reference: str
    payload: dict[str, Any]
    items: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def add(self, line: int, last_line: int, number: int, cells: Mapping[str, str]) -> None:
        """Take one more row in."""
        self.last_line, self.number = last_line, number
        for name in COLUMNS_OF_REQUEST:
            value = cells.get(name, "").strip()
            if value and value != self.payload.setdefault(name, value):
                self.fault(line, name, "differs from the first row of the same client_reference")
        side = cells.get("segment", "").strip()
        if side not in (Segment.FORGET, Segment.RETAIN):
            self.fault(line, "segment", "must be forget or retain")
            return
        listed: list[dict[str, Any]] = self.payload.setdefault(side, [])
        if len(listed) <= BOUNDS.max_items_per_request:  # one too many is enough to be refused
            self.items[f"{side}.{len(listed)}"] = line
            listed.append(_item(cells))

    def row(self) -> Row:
        """The request that the rows are."""
        if self.faults:
            return Row(self.line, self.last_line, self.number, None, self.faults, self.items)
        payload, problems = _parsed(self.payload)
        faults = [_placed(self.line, self.items, p["field"], p["problem"]) for p in problems]
        return Row(self.line, self.last_line, self.number, payload, faults, self.items)

    def fault(self, line: int, name: str, problem: str) -> None:
        """Note what is wrong, of much of it the first."""
        if len(self.faults) < FAULTS_A_ROW:
            self.faults.append(Fault(line, name, problem))


class _Marks:
    """Which references came up, of at most `most`: a table of 64-bit marks whose size does not depend on how many."""

    def __init__(self, most: int) -> None:
        self.size = 1 << (2 * most).bit_length()
        self.table = array("Q", bytes(8 * self.size))

    def add(self, reference: str) -> bool:
        """Note one; False when it is there."""
        raw = hashlib.blake2b(reference.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        mark = int.from_bytes(raw) or 1  # 0 is a free place
        place = mark & (self.size - 1)
        while self.table[place]:
            if self.table[place] == mark:
                return False
            place = (place + 1) & (self.size - 1)
        self.table[place] = mark
        return True


def _csv(file: BinaryIO, max_row_bytes: int, max_rows: int) -> Iterator[Row]:
    feed = _Feed(file, max_row_bytes)
    reader = csv.reader(feed, strict=True)
    group: _Group | None = None
    seen = _Marks(max_rows)
    line = number = 0
    try:
        header = _header(next(reader, []))
        line, feed.size = reader.line_num, 0
        for cells in reader:
            first, line, feed.size = line + 1, reader.line_num, 0
            if not cells:
                continue
            number += 1
            named = {name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()}
            reference = named.get("client_reference", "").strip()
            if group is None or not reference or reference != group.reference:
                if group is not None:
                    yield group.row()
                group = _Group(first, line, number, reference, {}, faults=_start_faults(first, reference, seen))
            if len(cells) != len(header):
                group.fault(first, ROW, f"has {len(cells)} cells, the header {len(header)}")
            group.add(first, line, number, named)
        if group is not None:
            yield group.row()
    except (_Unreadable, csv.Error) as error:
        if group is not None:
            yield group.row()
        why = str(error) if isinstance(error, _Unreadable) else "the row is not well-formed CSV"
        yield Row(line + 1, line + 1, number + 1, None, [Fault(line + 1, ROW, f"{why}; nothing after it was read")])


def _header(cells: Sequence[str]) -> list[str]:
    """Names of the columns. Raises _Unreadable."""
    names = [cell.strip().removeprefix("\ufeff") for cell in cells]
    missing = [name for name in NEEDED if name not in names]
    if missing:
        raise _Unreadable(f"the header has no column {', '.join(missing)}")
    if len(set(names)) < len(names) or not set(names) <= set(COLUMNS):
        raise _Unreadable(f"the header has a column twice, or one that is none of {', '.join(COLUMNS)}")
    return names


def _start_faults(line: int, reference: str, seen: _Marks) -> list[Fault]:
    """Whether a request may begin here: not under a reference that had its rows further up."""
    if not reference or seen.add(reference):
        return []
    return [Fault(line, "client_reference", "rows of the same client_reference must stand together")]


def _item(cells: Mapping[str, str]) -> dict[str, Any]:
    """An item as a body has it; empty cells are left out."""
    item: dict[str, Any] = {name: cells[name] for name in TEXTS if name in cells}
    facts = [fact.strip() for fact in cells.get("facts", "").split(BETWEEN_FACTS)]
    return item | {"facts": [fact for fact in facts if fact]}


def _placed(line: int, items: Mapping[str, int], name: str, problem: str) -> Fault:
    """A fault of a field, at the line of its item where that has one: `forget.3.prompt` is then `prompt` there."""
    side, _, rest = name.partition(".")
    number, _, inside = rest.partition(".")
    own = items.get(f"{side}.{number}")
    return Fault(line, name, problem) if own is None else Fault(own, inside or ROW, problem)
