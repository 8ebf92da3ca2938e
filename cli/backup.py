"""`grail backup`: make one, look at what is there, restore into an empty place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError, OperationalError

from app import schema
from app.backup import repository, service
from app.backup.service import Checked
from app.config import Settings, load_settings
from app.db import Database, transaction
from app.embedded.services import EmbeddedServices
from cli import backup_files as files
from cli.failures import CommandFailed
from cli.keys import AWAY, database_url
from cli.remote import data_directory
from cli.show import AsJson, hint, show_json
from cli.stack import running_stack

backup = typer.Typer(no_args_is_help=True, help="Backups of database and files (on the database, without the API).")

SHOWN = 20


@backup.command()
def create(
    into: Annotated[Path | None, typer.Argument(help="Directory for backups; GRAIL_BACKUP_DIR without it.")] = None,
) -> None:
    """Back up database and files while the service runs. Prints where it is. The keys of content are not in it: back
    them up on their own (docs/operations.md)."""
    place = into or load_settings().backup_dir
    if place is None:
        raise typer.BadParameter("name a directory, or set GRAIL_BACKUP_DIR", param_hint="INTO")
    url = database_url()
    with _answering(url) as db:
        at = schema.current(url)
        if at is None:
            raise CommandFailed("the database has no schema: there is nothing to back up", AWAY)
        made = files.create(url, _data(), place.absolute(), schema=at, server_major=_major(db))
    hint("The database was dumped first, files were copied second; every file's digest is in manifest.json.")
    hint("What people wrote is sealed: the key store and the key-encryption keys are to be backed up on their own.")
    typer.echo(str(made))


@backup.command()
def verify(
    place: Annotated[Path | None, typer.Argument(help="A backup; without it the running data is looked at.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare all bytes with their digests: of a backup, or of every version and document that rows name."""
    if place is not None:
        document = files.read_manifest(place.absolute())
        hint(f"{len(document['files'])} files as they were backed up at {document['created_at']}.")
        return
    with _answering(database_url()) as db, db.session_factory() as session:
        _tell(service.check(session, _settings(_data())), as_json)


@backup.command()
def restore(
    place: Annotated[Path, typer.Argument(help="The backup's directory.")],
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Into a Postgres of our own below GRAIL_DATA_DIR, for `grail serve`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Restore into an empty database and a GRAIL_DATA_DIR without files; tells what is missing. Changes nothing that is
    there."""
    place, data = place.absolute(), _data()
    if running_stack(data) is not None:
        raise CommandFailed(f"a service runs on {data}", "Restore into another GRAIL_DATA_DIR, or stop it.")
    document = files.read_manifest(place)
    if not schema.is_known(document["schema"]):
        raise CommandFailed(f"the backup has schema {document['schema']}, which this version does not know",
                            "Restore with the version that made it, or a later one.")  # fmt: skip
    if any(True for _ in files.kept_files(data)):
        raise CommandFailed(f"{data} holds files already", "Name another GRAIL_DATA_DIR: nothing is overwritten.")
    if embedded:
        with EmbeddedServices(data) as services:
            _restore(place, document, services.database_url, data, as_json)
    else:
        _restore(place, document, database_url(), data, as_json)


def _restore(place: Path, document: dict[str, object], url: str, data: Path, as_json: bool) -> None:
    with _answering(url) as db:
        with db.engine.connect() as connection:
            tables = connection.execute(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")).scalar_one()
        if tables:
            raise CommandFailed("the database is not empty", "Make an empty one: `createdb`. Nothing is overwritten.")
        files.restore_database(place, url, server_major=_major(db))
        schema.upgrade(url)
        files.restore_files(place, document, data)
        settings = _settings(data)
        with transaction(db) as session:
            repository.move_versions(session, settings.adapters_dir.absolute())
        with db.session_factory() as session:
            found = service.check(session, settings)
    hint(f"Restored as of {document['created_at']}. Requests completed since then are open again, or absent:")
    hint("  see Backup in docs/operations.md before anything is served from it, also for where its keys have to be.")
    _tell(found, as_json)


def _tell(found: Checked, as_json: bool) -> None:
    """What was found; exit code 1 unless it is whole."""
    if as_json:
        show_json({"whole": found.whole, "versions": found.versions, "documents": found.documents,
                   "without_weights": found.without_weights,
                   "missing": found.missing, "damaged": found.damaged, "orphans": found.orphans})  # fmt: skip
    else:
        hint(f"{found.versions} versions and {found.documents} documents are named by rows.")
        if found.without_weights:
            hint(f"{found.without_weights} versions have no weights any more: they were destroyed, as is meant.")
        for word in ("missing", "damaged", "orphans"):
            names: list[str] = getattr(found, word)
            if names:
                more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                hint(f"{len(names)} {word}: {', '.join(names[:SHOWN])}{more}")
    if not found.whole:
        raise typer.Exit(1)


@contextmanager
def _answering(url: str) -> Iterator[Database]:
    db = Database(url, pool_size=1, application="grail backup")
    try:
        yield db
    except (OperationalError, InterfaceError):
        raise CommandFailed("the database does not answer", AWAY) from None
    finally:
        db.dispose()


def _major(db: Database) -> int:
    with db.engine.connect() as connection:
        return int(connection.execute(text("SHOW server_version_num")).scalar_one()) // 10_000


def _data() -> Path:
    return data_directory().absolute()


def _settings(data: Path) -> Settings:
    return load_settings().model_copy(update={"data_dir": data})
