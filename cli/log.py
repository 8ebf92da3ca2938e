"""`grail log`: the audit log, straight on the database, or on an export of it."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.audit_log import auditing, checkpoints, export, parts, service, signing
from app.audit_log.auditing import Audited
from app.config import Settings, load_settings
from app.db import Database, reading
from app.trust.verify import KEY, Key, Rejected, parse_keys
from cli.failures import CommandFailed
from cli.keys import opened_database
from cli.log_keys import keys
from cli.remote import data_directory
from cli.show import AsJson, hint, show_fields, show_json

log = typer.Typer(no_args_is_help=True, help="The audit log: checkpoints, proofs, exports, keys (on the database).")
log.add_typer(keys, name="key")

HASH_CHARS = 64


def log_database() -> AbstractContextManager[Database]:
    """The database, which must be reachable and at the newest schema. Raises CommandFailed."""
    return opened_database("grail log")


def signing_settings() -> Settings:
    """The settings, with the key of an embedded service where none is set."""
    settings, own = load_settings(), data_directory() / signing.FILE
    if signing.is_set(settings) or not own.is_file():
        return settings
    origin = settings.log_origin or signing.EMBEDDED_ORIGIN
    return settings.model_copy(update={"signing_key_file": own, "log_origin": origin})


@log.command()
def status(as_json: AsJson = False) -> None:
    """How many leaves there are, how many wait for a number, and what is signed."""
    with log_database() as db, reading(db) as connection:
        found = service.state(connection).model_dump(mode="json")
    (show_json if as_json else show_fields)(found)


@log.command()
def checkpoint(
    issue: Annotated[bool, typer.Option("--issue", help="Number what waits and sign now, if the log grew.")] = False,
) -> None:
    """Print the newest signed checkpoint. Keep it outside of the service: it is what later logs are compared with."""
    with log_database() as db:
        if issue:
            found = checkpoints.seal(db, signing_settings())
            hint("Signed anew." if found.fresh else "Nothing new to sign.")
        else:
            with reading(db) as connection:
                found = service.signed(connection)
    typer.echo(found.note.decode(), nl=False)


@log.command()
def prove(
    leaf: Annotated[str | None, typer.Argument(help="Number of a leaf, or its hash: 64 hex digits.")] = None,
    since: Annotated[int | None, typer.Option(min=0, help="Prove instead that the log continues this size.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="For the log of this size; else as far as signed.")] = None,
) -> None:
    """Print a proof (RFC 9162) as JSON: that a leaf is in the log, or, with --since, that the log only grew."""
    if (leaf is None) == (since is None):
        raise typer.BadParameter("name a leaf, or give --since", param_hint="LEAF")
    with log_database() as db, reading(db) as connection:
        if since is not None:
            show_json(service.consistency(connection, since, size).model_dump())
            return
        position, digest = _named(leaf or "")
        proof = service.inclusion(connection, leaf_hash=digest, position=position, size=size)
    show_json(proof.model_dump())


@log.command()
def verify(
    file: Annotated[Path | None, typer.Option(help="An export, instead of the database.")] = None,
    key: Annotated[str | None, typer.Option(help="Keys that you trust: a file, or one; else the log's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the whole tree anew from its leaves and compare it with what was signed; exit code 1 if it differs."""
    known = None if key is None else _keys(key)
    if file is not None:
        with file.open("rb") as opened:
            found = auditing.audit_file(opened, known)
    else:
        with log_database() as db:
            found = auditing.audit(db, known)
    _tell(found, as_json=as_json)
    if known is None:
        hint("Its own keys were used: whoever forges a log brings theirs. Give those that you trust by --key.")
    if found.faults:
        raise typer.Exit(1)


@log.command("export")
def export_(
    into: Annotated[Path | None, typer.Option(help="A new file; standard output without it.")] = None,
) -> None:
    """Write all that is signed as JSON lines, for a regulator: leaves, checkpoints, keys. Leaves hold ids, no texts."""
    with log_database() as db:
        head = export.head_line(db)
        if into is None:
            for part in export.lines(db, head):
                sys.stdout.buffer.write(part)
            sys.stdout.buffer.flush()
        else:
            with into.open("xb") as file:
                file.writelines(export.lines(db, head))
    hint(f"{head['size']} leaves of {head['origin']}.")


@log.command()
def extend() -> None:
    """Make parts of the audit trail ahead. The sweep does it by itself where its role may make tables."""
    with log_database() as db:
        hint(f"{parts.make_ahead(db)} made.")


@log.command()
def expire(
    before: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="Drop leaves from before this day, in UTC.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm: what these leaves say is gone for good.")] = False,
) -> None:
    """Drop whole parts of the audit trail whose leaves are all older, numbered and signed. Hashes and proofs stay."""
    if not (dry_run or yes):
        raise typer.BadParameter("take an export, look with --dry-run, then confirm with --yes", param_hint="--yes")
    with log_database() as db:
        for found in parts.expire(db, before.replace(tzinfo=UTC), dry_run=dry_run):
            said = f"kept: {found.kept}" if found.kept else "would be dropped" if dry_run else "dropped"
            typer.echo(f"{found.name}: {found.about.leaves} leaves, {said}")


def _named(leaf: str) -> tuple[int | None, bytes | None]:
    """Position or hash."""
    try:
        if len(leaf) == HASH_CHARS:
            return None, bytes.fromhex(leaf)
        return int(leaf), None
    except ValueError:
        raise typer.BadParameter("neither a number nor 64 hex digits", param_hint="LEAF") from None


def _keys(given: str) -> tuple[Key, ...]:
    text = given if KEY.fullmatch(given) else Path(given).read_text(encoding="utf-8", errors="replace")
    try:
        return parse_keys(text, unsafe=True)
    except Rejected as error:
        raise CommandFailed(str(error), "A line a key, as `grail log key list --ring` prints.") from None


def _tell(found: Audited, *, as_json: bool) -> None:
    told = {
        "ok": not found.faults, "leaves": found.leaves, "expired": found.expired, "checkpoints": found.checkpoints,
        "root": found.root.hex(), "faults": found.faults,
    }  # fmt: skip
    if as_json:
        show_json(told)
        return
    for fault in found.faults:
        typer.echo(f"NO   {fault}")
    if not found.faults:
        typer.echo(f"yes  {found.leaves} leaves ({found.expired} expired) are those of {found.checkpoints} checkpoints")
    typer.echo(f"root {found.root.hex()}")
