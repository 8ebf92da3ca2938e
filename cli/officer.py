"""`grail officer queue`: what awaits an officer's decision."""

from __future__ import annotations

from typing import Annotated

import typer

from app.officer.schemas import QueueKind
from cli.remote import Key, Url, at, connect
from cli.show import AsJson, show_json, show_table, when

officer = typer.Typer(no_args_is_help=True, help="An officer's work.")


@officer.callback()
def _group() -> None:
    """A group, though it has one command."""


@officer.command()
def queue(
    kind: Annotated[QueueKind | None, typer.Option(help="Of this kind alone.")] = None,
    model: Annotated[str | None, typer.Option(help="Of this served model.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What waits: overdue, candidates to approve, notices, counter-notices, what needs attention or is due soon."""
    items = connect(url, key).pages(at("officer", "queue"), limit, kind=kind, served_model=model)
    if as_json:
        show_json(items)
        return
    rows = [
        [q["kind"].replace("_", " "), q["id"], q["served_model"], q["state"], q["age_days"], when(q["due_at"]),
         q["approvals_missing"], q["link"]]
        for q in items
    ]  # fmt: skip
    columns = ("KIND", "ID", "MODEL", "STATE", "DAYS", "DUE", "APPROVALS MISSING", "LINK")
    show_table(columns, rows, empty="Nothing waits for an officer.")
