"""`grail requests`: ask to forget and to retain. Texts come from files: a shell's history is no place for them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.lifecycle import RequestState
from app.tables import Regulation, RequestKind
from cli.decisions import decisions
from cli.models import read_object
from cli.remote import Key, Url, at, connect
from cli.show import AsJson, hint, show_fields, show_json, show_table, when

requests = typer.Typer(no_args_is_help=True, help="Deletion requests.")
requests.add_typer(decisions)

RequestId = Annotated[str, typer.Argument(help="The request's id.")]


class Domain(StrEnum):
    """The domains that the API takes."""

    PRIVACY = "privacy"
    COPYRIGHT = "copyright"


@requests.command()
def submit(
    file: Annotated[Path, typer.Argument(help="JSON body as POST /v1/requests takes it; - for standard input.")],
    model: Annotated[str | None, typer.Option(help="Served model, instead of the body's.")] = None,
    domain: Annotated[Domain | None, typer.Option(help="Domain, instead of the body's.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Submit a request. Answered once it is stored for good."""
    body = read_object(file)
    body |= {"served_model": model} if model else {}
    body |= {"domain": str(domain)} if domain else {}
    request = connect(url, key).post(at("requests"), body)
    if as_json:
        show_json(request)
        return
    hint(f"Stored as {request['state']}, due {when(request['due_at'])}.")
    typer.echo(request["id"])


@requests.command()
def statistics(
    year: Annotated[int, typer.Option(help="Of receipt, by UTC.")],
    model: Annotated[str | None, typer.Option(help="Of this served model.")] = None,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """What became of a year's requests, by domain and regulation (officer)."""
    found = connect(url, key).get(at("statistics"), year=year, served_model=model)
    if as_json:
        show_json(found)
        return
    groups = [*found["groups"], {"domain": "all", "regulation": "all", **found["total"]}]
    names = ("received", "done", "refused", "withdrawn", "failed", "open", "overdue", "median_days", "p90_days")
    rows = [[g["domain"], g["regulation"], *(g[name] for name in names)] for g in groups]
    columns = ("DOMAIN", "REGULATION", *(name.replace("_", " ").upper() for name in names))
    show_table(columns, rows, empty="")


@requests.command("list")
def list_(
    state: Annotated[RequestState | None, typer.Option()] = None,
    domain: Annotated[Domain | None, typer.Option()] = None,
    model: Annotated[str | None, typer.Option(help="Of this served model.")] = None,
    reference: Annotated[str | None, typer.Option(help="With this client reference.")] = None,
    kind: Annotated[RequestKind | None, typer.Option()] = None,
    regulation: Annotated[Regulation | None, typer.Option(help="Whose due date this one sets.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Past their due date, the longest overdue first.")] = False,
    due_within: Annotated[
        int | None, typer.Option(min=0, help="Due within so many days or overdue, the first due first.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """Requests, newest first; with --overdue or --due-within by due date."""
    items = connect(url, key).pages(
        at("requests"), limit, state=state, domain=domain, served_model=model, client_reference=reference,
        kind=kind, regulation=regulation, overdue=overdue or None, due_within_days=due_within,
    )  # fmt: skip
    if as_json:
        show_json(items)
        return
    rows = [
        [r["id"], r["served_model"], r["domain"], r["state"], r["forget_items"], r["retain_items"], r["days_left"],
         when(r["due_at"]), when(r["received_at"])]
        for r in items
    ]  # fmt: skip
    headings = ("ID", "MODEL", "DOMAIN", "STATE", "FORGET", "RETAIN", "DAYS LEFT", "DUE", "RECEIVED")
    show_table(headings, rows, empty="There is no such request.")


@requests.command()
def show(
    request_id: RequestId,
    items: Annotated[bool, typer.Option("--items", help="Its texts too (owner and officer).")] = False,
    url: Url = None,
    key: Key = None,
    as_json: AsJson = False,
) -> None:
    """One request: its state, its clock, and in numbers how it went."""
    request = connect(url, key).get(at("requests", request_id), include="items" if items else None)
    contents: dict[str, Any] | None = request.pop("contents")
    if as_json or contents:
        show_json({**request, "contents": contents})
        return
    show_fields(request)


@requests.command()
def certificate(
    request_id: RequestId,
    pdf: Annotated[Path | None, typer.Option(help="Write it as PDF to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it as HTML to this file.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Fetch the certificate of an erasure that is done; JSON goes to standard output without a file."""
    api, place = connect(url, key), at("requests", request_id, "certificate")
    files = {form: path for form, path in (("pdf", pdf), ("html", html)) if path is not None}
    if not files:
        show_json(api.get(place, format="json"))
    for form, path in files.items():
        path.write_bytes(api.send("GET", place, params={"format": form}).content)
        hint(f"Written to {path}.")


@requests.command()
def withdraw(request_id: RequestId, url: Url = None, key: Key = None) -> None:
    """Withdraw a request that no job works on yet."""
    request = connect(url, key).delete(at("requests", request_id))
    hint(f"The request is {request['state']}.")
