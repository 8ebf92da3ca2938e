"""How commands show things: tables and fields for people, JSON for programs. Nothing is read as markup, and nothing
reaches the terminal that would move its cursor, colour it or turn a line around: what people wrote is in there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.reports.words import is_hidden, visible

JOINERS = "\u200c\u200d"
"""What some scripts need inside of words."""
WIDE = 200
"""Columns when the output goes to a file or a pipe, so that ids stay whole."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]


def console() -> Console:
    """Standard output, as it is now."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False)


def hint(text: str) -> None:
    """Words for a person, on standard error: standard output stays fit for programs."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(plain(text))


def show_json(value: Any) -> None:
    """Indented JSON."""
    typer.echo(json_of(value, indent=2))


def json_of(value: Any, indent: int | None = None) -> str:
    """JSON in which what a terminal would obey is escaped."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return "".join(json.dumps(sign)[1:-1] if sign != "\n" and is_hidden(sign) else sign for sign in text)


def plain(text: str) -> str:
    """Text of several lines, each sign that shows nothing or moves the cursor written as its code: [U+001B]."""
    return visible(text, "\n" + JOINERS)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Rows under their headings, or `empty` when there are none. Cells that come as `Text` may have lines."""
    if not rows:
        hint(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(value if isinstance(value, Text) else Text(shown(value)) for value in row))
    console().print(table)


def show_fields(fields: Mapping[str, Any]) -> None:
    """One line a field; nested ones as JSON."""
    width = max(map(len, fields), default=0)
    for name, value in fields.items():
        typer.echo(f"{name.replace('_', ' '):<{width}}  {shown(value)}")


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return visible(value, JOINERS) if isinstance(value, str) else json_of(value)


def when(moment: str | None) -> str:
    """A time of the API, to the second."""
    return "-" if moment is None else shown(moment[:19].replace("T", " "))
