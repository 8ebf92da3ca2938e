"""`grail requests hold|resume|extend|refuse|validate|counter|dismiss|reinstate`: decisions about one request."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.models import read_object
from cli.remote import Key, Url, at, connect
from cli.show import AsJson, hint, show_json, when

decisions = typer.Typer()

RequestId = Annotated[str, typer.Argument(help="The request's id.")]
Reason = Annotated[str, typer.Option(help="At least 10 characters; it stays with the request.")]


class Hold(StrEnum):
    """Why a clock stands."""

    IDENTITY = "identity"
    SCOPE = "scope"
    LEGAL = "legal"


@decisions.command()
def hold(
    request_id: RequestId,
    kind: Annotated[Hold, typer.Option(help="What is in question; `legal` forbids the erasure (officer).")],
    reason: Reason,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Let a request's clock stand; no batch takes it meanwhile (operator, officer)."""
    _decide(request_id, "hold", {"kind": str(kind), "reason": reason}, url, key, as_json)


@decisions.command()
def resume(request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """End a hold: the due date moves by the time that the clock stood (operator, officer)."""
    _decide(request_id, "resume", None, url, key, as_json)


@decisions.command()
def extend(
    request_id: RequestId, reason: Reason, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Put the due date forward, once and inside the first period (operator, officer)."""
    _decide(request_id, "extend", {"reason": reason}, url, key, as_json)


@decisions.command()
def refuse(
    request_id: RequestId, reason: Reason, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Refuse a request: nothing is erased, its owner reads the reason (officer)."""
    _decide(request_id, "refuse", {"reason": reason}, url, key, as_json)


@decisions.command()
def validate(request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Validate a copyright notice: it goes into the next batch (officer)."""
    _decide(request_id, "validate", None, url, key, as_json)


@decisions.command()
def counter(
    request_id: RequestId, reason: Reason, url: Url = None, key: Key = None, as_json: AsJson = False
) -> None:
    """Lodge a counter-notice against an erased work (operator, officer)."""
    _decide(request_id, "counter", {"reason": reason}, url, key, as_json)


@decisions.command()
def dismiss(request_id: RequestId, url: Url = None, key: Key = None, as_json: AsJson = False) -> None:
    """Dismiss a counter-notice: the work stays erased (officer)."""
    _decide(request_id, "dismiss", None, url, key, as_json)


@decisions.command()
def reinstate(
    request_id: RequestId,
    items: Annotated[
        Path | None,
        typer.Option(help='JSON {"items": [...]}, what was erased, once it is kept no more; - for standard input.'),
    ] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Have a countered work taught again (officer). Prints the id of the request that does so."""
    body = read_object(items) if items else {}
    made = connect(url, key).post(at("requests", request_id, "reinstate"), body)
    if as_json:
        show_json(made)
        return
    hint(f"Stored as {made['state']}, due {when(made['due_at'])}.")
    typer.echo(made["id"])


def _decide(
    request_id: str, deed: str, body: dict[str, Any] | None, url: str | None, key: str | None, as_json: bool
) -> None:
    """Do it, and say where the request stands then."""
    request = connect(url, key).post(at("requests", request_id, deed), body)
    if as_json:
        show_json(request)
        return
    left = "" if request["days_left"] is None else f", due {when(request['due_at'])}, days left: {request['days_left']}"
    hint(f"The request is {request['state']}{left}.")
