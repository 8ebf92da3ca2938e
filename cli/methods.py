"""`grail methods`: what a policy may name, read off the library's files: no service and no learning stack is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from app.methods.schemas import Declared
from app.methods.service import everything
from cli.show import AsJson, hint, show_json, show_table, shown


def methods(as_json: AsJson = False) -> None:
    """Methods and objectives that a policy may name, with what they fix, preset and take as options."""
    found = everything()
    if as_json:
        show_json(found.model_dump())
        return
    _table("METHOD", found.methods)
    _table("OBJECTIVE", found.objectives)
    _table("RETAIN OBJECTIVE", found.retain_objectives)
    hint("Name them in a policy: grail models policy NAME --set unlearn.method=memflex --set unlearn.options.mu=0.8")


def _table(title: str, rows: Sequence[Declared]) -> None:
    cells = [[row.name, _pairs(row.fixes), _pairs(row.presets), _options(row), row.says] for row in rows]
    show_table((title, "FIXES", "PRESETS", "OPTIONS", "WHAT IT DOES"), cells, empty="There is none.")


def _pairs(values: Mapping[str, Any]) -> Text:
    """Settings with their values, one a line."""
    return Text("\n".join(f"{name}={shown(value)}" for name, value in values.items()) or "-")


def _options(row: Declared) -> Text:
    """Options with their defaults and what they may be, one a line."""
    return Text("\n".join(f"{name}={shown(value)}{_limits(row, name)}" for name, value in row.options.items()) or "-")


def _limits(row: Declared, name: str) -> str:
    """` (0.1..3)` or ` (one, other)`."""
    values = row.limits.get(name)
    if not values:
        return ""
    numbers = not any(isinstance(value, str) for value in values)
    return f" ({'..'.join(f'{v:g}' for v in values)})" if numbers else f" ({', '.join(map(str, values))})"
