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
from app.tables.key import KeyRole
from cli.failures import CommandFailed
from cli.remote import data_directory
from cli.show import AsJson, hint, show_json, show_table, when
from cli.stack import running_stack

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys (on the database, without the API).")

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
def _session() -> Iterator[Session]:
    """A transaction on the database, which must be reachable and at the newest schema. Raises CommandFailed."""
    url = database_url()
    db = Database(url, pool_size=1, application="grail cli")
    try:
        at, newest = schema.current(url), schema.head()
        if at != newest:
            raise CommandFailed(f"the database has schema {at or 'none'}, this needs {newest}", "Run `grail migrate`.")
        with transaction(db) as session:
            yield session
    except (Unavailable, OperationalError, InterfaceError):
        raise CommandFailed("the database does not answer", AWAY) from None
    finally:
        db.dispose()


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in lists.")],
    role: Annotated[KeyRole, typer.Option(help="What its holder may do.")] = KeyRole.REQUESTER,
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Expires after so many days; else never.")] = None,
) -> None:
    """Make a key. It is printed once and kept nowhere."""
    if not 1 <= len(name.strip()) <= 100:
        raise typer.BadParameter("must have 1 to 100 characters", param_hint="NAME")
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with _session() as session:
        _, plaintext = service.create_key(session, name.strip(), role, expires_at)
    hint(f"A key with the role {role}. It is shown this once: keep it, for example with `export GRAIL_KEY=...`.")
    typer.echo(plaintext)


@keys.command("list")
def list_(as_json: AsJson = False) -> None:
    """All keys, oldest first, by their prefixes."""
    with _session() as session:
        rows = [
            {"prefix": row.prefix, "name": row.name, "role": str(row.role), "created_at": row.created_at.isoformat(),
             "expires_at": row.expires_at.isoformat() if row.expires_at else None,
             "revoked_at": row.revoked_at.isoformat() if row.revoked_at else None}
            for row in service.list_keys(session)
        ]  # fmt: skip
    if as_json:
        show_json(rows)
        return
    cells = [
        [r["prefix"], r["name"], r["role"], when(r["created_at"]), when(r["expires_at"]), when(r["revoked_at"])]
        for r in rows
    ]
    show_table(("PREFIX", "NAME", "ROLE", "CREATED", "EXPIRES", "REVOKED"), cells, empty="There is no key yet.")


@keys.command()
def revoke(
    prefix: Annotated[str, typer.Argument(help="The eight characters after `grail_`; the whole key will do too.")],
) -> None:
    """Revoke a key at once. Its row stays, since requests refer to it."""
    parts = prefix.split("_")
    with _session() as session:
        row = service.revoke_key(session, parts[1] if len(parts) > 1 else prefix)
        hint(f"The key {row.prefix} ({row.name}) is revoked.")


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
