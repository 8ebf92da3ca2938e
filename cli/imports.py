"""`grail requests import`: a whole file of requests, followed to its end."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.tables import ImportForm, ImportState
from cli.failures import CommandFailed
from cli.remote import Key, Remote, Url, at, connect
from cli.show import AsJson, hint, show_fields, show_json, show_table

POLL_SECONDS = 0.5
PIECE_BYTES = 1 << 16
MEDIA_TYPES = {ImportForm.JSONL: "application/x-ndjson", ImportForm.CSV: "text/csv"}
SUFFIXES = {".jsonl": ImportForm.JSONL, ".ndjson": ImportForm.JSONL, ".csv": ImportForm.CSV}


def import_file(
    file: Annotated[Path, typer.Argument(help="JSONL (one request a line) or CSV (one item a row).", dir_okay=False)],
    partial: Annotated[bool, typer.Option("--partial", help="Import the right rows even if others are wrong.")] = False,
    form: Annotated[ImportForm | None, typer.Option(help="By the file's name where it is left out.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Import a file of requests. Shows what is wrong, row by row; exit code 1 unless all of it was imported."""
    found = form or SUFFIXES.get(file.suffix.lower())
    if found is None:
        raise CommandFailed(f"{file.name} is neither .jsonl nor .csv", "Say which it is: --form jsonl or --form csv.")
    api = connect(url, key)
    import_id = _send(api, file, found, partial)
    ended, faults = _follow(api, import_id), _faults(api, import_id)
    if as_json:
        show_json({**ended, "faults": faults})
    else:
        show_fields(ended)
        rows = [[fault["line"], fault["field"], fault["problem"]] for fault in faults]
        show_table(("LINE", "FIELD", "WHAT IS WRONG"), rows, empty="No row is wrong.")
    if ended["state"] != ImportState.IMPORTED or ended["refused"]:
        raise typer.Exit(1)


def _send(api: Remote, file: Path, form: ImportForm, partial: bool) -> str:
    """Upload the file; the import's id."""
    size = file.stat().st_size
    headers = {
        "Content-Type": MEDIA_TYPES[form],
        "Content-Length": str(size),
        "Idempotency-Key": str(uuid.uuid4()),  # a proxy that sends it twice does not import it twice
    }
    with _bar(DownloadColumn()) as bar:
        task = bar.add_task("sent", total=size)
        answer = api.send(
            "POST", at("imports"), params={"partial": partial}, headers=headers, content=_pieces(file, bar, task)
        )
    return str(answer.json()["id"])


def _pieces(file: Path, bar: Progress, task: TaskID) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while piece := opened.read(PIECE_BYTES):
            yield piece
            bar.advance(task, len(piece))


def _follow(api: Remote, import_id: str) -> dict[str, Any]:
    """The import once it has ended. Ctrl-C ends the following, not the import."""
    hint(f"The file is stored as import {import_id}.")
    with _bar() as bar:
        task = bar.add_task("queued", total=None)
        while True:
            found: dict[str, Any] = api.get(at("imports", import_id))
            counts = f"{found['rows']} rows read, {found['imported']} imported, {found['refused']} refused"
            bar.update(task, description=f"{found['state']}: {counts}")
            if found["finished_at"] is not None:
                return found
            time.sleep(POLL_SECONDS)


def _faults(api: Remote, import_id: str) -> list[dict[str, Any]]:
    with api.stream(at("imports", import_id, "errors")) as answer:
        return [json.loads(line) for line in answer.iter_lines() if line]


def _bar(*more: Any) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *more, TimeElapsedColumn(), console=Console(stderr=True)
    )
