"""`grail keys` and `grail migrate`: straight on the database, since the first key has to come from somewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from app import schema
from app.config import read_secret_files
from app.db import Database, transaction
from app.errors import Unavailable
from app.keys import service
from app.tables.key import Key, KeyRole
from cli.failures import CommandFailed
from cli.remote import data_directory
from cli.show import AsJson, hint, show_json, show_table, when
from cli.stack import running_stack

keys = typer.Typer(no_args_is_help=True, help="Make, list, rotate, revoke API keys (on the database, without the API).")

Prefix = Annotated[str, typer.Argument(help="The eight characters after `grail_`; the whole key will do too.")]
Expires = Annotated[float | None, typer.Option(min=0.01, max=3660, help="Valid for so many days; else until revoked.")]
AWAY = "Check GRAIL_DATABASE_URL and the server, or start the service: `grail serve --embedded`."


def database_url() -> str:
    """The database that these commands work on: GRAIL_DATABASE_URL, else the embedded one of a running service. Raises
    CommandFailed."""
    read_secret_files()
    url = os.environ.get("GRAIL_DATABASE_URL")
    running = None if url else running_stack(data_directory())
    found = url or (running.database_url if running else None)
    if not found:
        raise CommandFailed(
            f"GRAIL_DATABASE_URL is not set, and no embedded service runs on {data_directory()}",
            "Start one with `grail serve --embedded`, or set GRAIL_DATABASE_URL.",
        )
    return found


@contextmanager
def opened_database(application: str) -> Iterator[Database]:
    """The database, which must be reachable and at the newest schema. Raises CommandFailed."""
    url = database_url()
    db = Database(url, pool_size=1, application=application)
    try:
        at, newest = schema.current(url), schema.head()
        if at != newest:
            raise CommandFailed(f"the database has schema {at or 'none'}, this needs {newest}", "Run `grail migrate`.")
        yield db
    except (Unavailable, OperationalError, InterfaceError):
        raise CommandFailed("the database does not answer", AWAY) from None
    finally:
        db.dispose()


@contextmanager
def database_session() -> Iterator[Session]:
    """A transaction on it. Raises CommandFailed."""
    with opened_database("grail cli") as db, transaction(db) as session:
        yield session


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in lists.")],
    role: Annotated[KeyRole, typer.Option(help="What its holder may do.")] = KeyRole.REQUESTER,
    expires_days: Expires = None,
) -> None:
    """Make a key. It is printed once and kept nowhere."""
    if not 1 <= len(name.strip()) <= 100:
        raise typer.BadParameter("must have 1 to 100 characters", param_hint="NAME")
    with database_session() as session:
        row, plaintext = service.create_key(session, name.strip(), role, expires_at=_in_days(expires_days))
    hint(f"A key with the role {role}{_until(row)}. It is shown this once: keep it, as with `export GRAIL_KEY=...`.")
    typer.echo(plaintext)


@keys.command()
def rotate(
    prefix: Prefix,
    overlap_hours: Annotated[
        float, typer.Option(min=0, max=24 * 366, help="How long the old key is valid still; 0: not at all.")
    ] = 24.0,
    expires_days: Expires = None,
) -> None:
    """Make the key that follows another: the same holder, role and requests. It is printed once."""
    now = datetime.now(UTC)
    with database_session() as session:
        row, plaintext = service.rotate_key(
            session, _prefix(prefix), now, overlap=timedelta(hours=overlap_hours), expires_at=_in_days(expires_days)
        )
    hint(f"The old key is valid for {overlap_hours:g} h still. The new one{_until(row)}, shown this once:")
    typer.echo(plaintext)


@keys.command("list")
def list_(as_json: AsJson = False) -> None:
    """All keys, oldest first, by their prefixes."""
    with database_session() as session:
        rows = [
            {"prefix": row.prefix, "name": row.name, "role": str(row.role), "holder": str(row.owner_id),
             **{name: moment.isoformat() if moment else None for name, moment in _moments(row).items()}}
            for row in service.list_keys(session)
        ]  # fmt: skip
    if as_json:
        show_json(rows)
        return
    headings = ("PREFIX", "NAME", "ROLE", "CREATED", "LAST USED", "EXPIRES", "REVOKED")
    times = ("created_at", "last_used_at", "expires_at", "revoked_at")
    cells = [[r["prefix"], r["name"], r["role"], *(when(r[name]) for name in times)] for r in rows]
    show_table(headings, cells, empty="There is no key yet.")


@keys.command()
def revoke(prefix: Prefix) -> None:
    """Revoke a key at once. Its row stays, since requests refer to it; its holder's other keys stay valid."""
    with database_session() as session:
        row = service.revoke_key(session, _prefix(prefix))
        hint(f"The key {row.prefix} ({row.name}) is revoked.")


def _prefix(given: str) -> str:
    parts = given.split("_")
    return parts[1] if len(parts) > 1 else given


def _in_days(days: float | None) -> datetime | None:
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def _until(row: Key) -> str:
    return "" if row.expires_at is None else f", valid until {when(row.expires_at.isoformat())}"


def _moments(row: Key) -> dict[str, datetime | None]:
    return {
        "created_at": row.created_at, "last_used_at": row.last_used_at, "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
    }  # fmt: skip


def migrate(
    to: Annotated[str, typer.Option(help="A revision, `head` or, with --down, `base`.")] = "head",
    down: Annotated[bool, typer.Option("--down", help="Go back to --to: tables and what they hold are lost.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm --down.")] = False,
) -> None:
    """Bring the database to a schema revision, the newest by default."""
    if down and to == "head":
        raise typer.BadParameter("name the revision to go back to, or `base`", param_hint="--to")
    if down and not yes:
        raise typer.BadParameter("going back loses data: take a backup, then confirm with --yes", param_hint="--down")
    if not schema.is_known(to):
        raise typer.BadParameter(f"there is no revision {to!r}: see migrations/versions", param_hint="--to")
    url = database_url()
    try:
        (schema.downgrade if down else schema.upgrade)(url, to)
        hint(f"The database is at schema {schema.current(url) or 'base'}.")
    except (OperationalError, InterfaceError):
        raise CommandFailed("the database does not answer", AWAY) from None
