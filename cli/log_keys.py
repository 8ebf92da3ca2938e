"""`grail log key`: keys that sign the audit log. Private ones are files; what the database has are verifier keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from app.audit_log import keys as ring
from app.audit_log import signing
from app.audit_log.errors import NoSigningKey
from app.config import load_settings
from app.trust.keys import Ed25519Signer, KeyUnusable
from cli.failures import CommandFailed
from cli.keys import database_session
from cli.show import AsJson, hint, show_json, show_table, when

keys = typer.Typer(no_args_is_help=True, help="Keys that sign the audit log.")

Origin = Annotated[str, typer.Option(envvar="GRAIL_LOG_ORIGIN", help="The log's name, which its keys have, too.")]
File = Annotated[Path, typer.Argument(help="A PEM file.")]
KeyId = Annotated[str, typer.Argument(help="Eight hex digits: the middle part of name+id+key.")]


@keys.command()
def new(file: File, origin: Origin) -> None:
    """Make a key in a new file that its user alone may read, and print its verifier key."""
    signer = _signer(origin)
    try:
        signing.write_key(file.absolute(), [signer])
    except FileExistsError:
        raise CommandFailed(f"{file} is there already", "`grail log key rotate` adds a key to it.") from None
    typer.echo(signer.vkey)
    hint(
        f"Set GRAIL_SIGNING_KEY_FILE to {file.absolute()} and GRAIL_LOG_ORIGIN to {origin} for the control worker. "
        "Keep a copy of the file apart from the database; hand the line above to auditors by a way of its own."
    )


@keys.command()
def rotate(file: File, origin: Origin) -> None:
    """Put a new key behind those of a file: from then on all of them sign. Prints the new verifier key."""
    held, signer = signing.read_signers(origin, file), _signer(origin)
    signing.replace_keys(file.absolute(), [*held, signer])
    typer.echo(signer.vkey)
    hint(
        "Both sign from the next checkpoint on. Once auditors have the new key: `grail log key retire "
        f"{held[0].key_id}`, then take its part out of the file."
    )


@keys.command("list")
def list_(
    as_json: AsJson = False,
    as_ring: Annotated[bool, typer.Option("--ring", help="Print it as auditors and `grail verify` read it.")] = False,
) -> None:
    """Show every key that ever signed, oldest first."""
    with database_session() as opened:
        found = ring.ring(opened)
    if as_ring:
        typer.echo(found.text(), nl=False)
        return
    rows = [
        {"id": key.id, "name": key.name, **{word: _moment(key.times.get(word)) for word in ("not-after", "revoked")}}
        for key in found.keys
    ]
    if as_json:
        show_json(rows)
        return
    cells = [[row["id"], row["name"], when(row["not-after"]), when(row["revoked"])] for row in rows]
    show_table(("ID", "NAME", "RETIRED", "REVOKED"), cells, empty="The log was never signed.")


@keys.command()
def public(origin: Origin = "") -> None:
    """Print the verifier keys of what is set to sign here, without the database."""
    settings = load_settings()
    named = settings.model_copy(update={"log_origin": origin or settings.log_origin})
    for signer in signing.load_signers(named):
        typer.echo(signing.verifier_key(signer))


@keys.command()
def retire(key_id: KeyId) -> None:
    """End a key in peace: what it signed goes on to count, and it signs nothing more."""
    _end(key_id, revoked=False)


@keys.command()
def revoke(key_id: KeyId) -> None:
    """End a key that was stolen: nothing that it ever signed counts any more; the keys that are left sign anew."""
    _end(key_id, revoked=True)


def _end(key_id: str, *, revoked: bool) -> None:
    with database_session() as opened:
        row = ring.end(opened, key_id, datetime.now(UTC), revoked=revoked)
        hint(f"The key {row.key_id} of {row.name} is {'revoked' if revoked else 'retired'}.")
    hint("Give auditors the ring anew: `grail log key list --ring`.")


def _signer(origin: str) -> Ed25519Signer:
    try:
        return Ed25519Signer.new(origin)
    except KeyUnusable as error:
        raise NoSigningKey(str(error)) from None


def _moment(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
