"""How commands show things: tables and fields for people, JSON for programs. Nothing is read as markup."""

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

WIDE = 200
"""Columns when the output goes to a file or a pipe, so that ids stay whole."""

AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer as JSON.")]


def console() -> Console:
    """Standard output, as it is now."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False)


def hint(text: str) -> None:
    """Words for a person, on standard error: standard output stays fit for programs."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(text)


def show_json(value: Any) -> None:
    """Indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Rows under their headings, or `empty` when there are none."""
    if not rows:
        hint(empty)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
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
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def when(moment: str | None) -> str:
    """A time of the API, to the second."""
    return "-" if moment is None else moment[:19].replace("T", " ")
