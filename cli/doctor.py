"""`grail doctor`: what the service needs, one by one: well, or how to mend it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cli.doctor_places import backups, model_roots, secret_files, secret_paths, settings, traces
from cli.doctor_rows import of_rows
from cli.findings import UNREAD, UNREAD_FILE, Finding, State
from cli.keys import database_url
from cli.remote import data_directory
from cli.show import hint, show_json, show_table
from cli.stack import running_stack

ROOM_BYTES = 2_000_000_000
"""What the converted model, the demo's artefacts and a database need, with some air."""
OLDEST_POSTGRES = 15


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Check everything that the service needs, and say how to mend it; exit code 1 when something is wrong."""
    found = [finding for check in CHECKS for finding in _looked_at(check)]
    if as_json:
        show_json([{"check": f.name, "state": f.state.lower(), "text": f.text} for f in found])
    else:
        show_table(("CHECK", "STATE", "WHAT"), [[f.name, f.state, f.text] for f in found], empty="")
    wrong = sum(finding.state is State.WRONG for finding in found)
    if wrong:
        hint(f"{wrong} to mend, as the lines marked WRONG say.")
        raise typer.Exit(1)
    hint("All is well.")


def _looked_at(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds. One that needs what can not be read says so in its place, and hides none of the others: which
    setting, or file of a secret, has a line of its own."""
    name = check.__name__.strip("_").replace("_", " ")
    try:
        yield from check()
    except ValidationError:
        yield Finding(name, State.NOTE, UNREAD)
    except OSError as error:
        if error.filename in map(str, secret_paths().values()):
            yield Finding(name, State.NOTE, UNREAD_FILE)
            return
        what = f"{error.strerror or type(error).__name__}: {error.filename or 'a file or connection'}"
        yield Finding(name, State.WRONG, f"can not be looked at ({what})")


def _python() -> Iterator[Finding]:
    yield Finding("python", State.OK, f"{sys.version.split()[0]} in {sys.prefix}")


def _packages() -> Iterator[Finding]:
    """Every dependency is there in a version that pyproject.toml allows."""
    from packaging.requirements import Requirement

    wrong = []
    needed = [Requirement(line) for line in importlib.metadata.requires("grail-server") or []]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in needed:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
            continue
        if not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} is {version}, needed {one.specifier}")
    if wrong:
        yield Finding("packages", State.WRONG, f"{'; '.join(wrong)}: run `make setup`")
    else:
        yield Finding("packages", State.OK, f"{len(needed)} in the versions needed")


def _disk() -> Iterator[Finding]:
    place = data_directory().absolute()
    there = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:.1f} GB free for {place}"
    if free < ROOM_BYTES:
        yield Finding("disk", State.WRONG, f"{text}: free {ROOM_BYTES / 1e9:.0f} GB, or set GRAIL_DATA_DIR elsewhere")
    elif not os.access(there, os.W_OK):
        yield Finding("disk", State.WRONG, f"{there} can not be written: set GRAIL_DATA_DIR elsewhere")
    else:
        yield Finding("disk", State.OK, text)


def _servers() -> Iterator[Finding]:
    """The embedded servers' binaries are there."""
    from app.embedded.binaries import postgres_binaries, valkey_binary
    from app.embedded.errors import EmbeddedError

    try:
        yield Finding("embedded", State.OK, f"{postgres_binaries() / 'postgres'}; {valkey_binary().name}")
    except EmbeddedError as error:
        yield Finding("embedded", State.WRONG, str(error))


def _service() -> Iterator[Finding]:
    running = running_stack(data_directory())
    if running is None:
        yield Finding("service", State.NOTE, f"none runs on {data_directory()}; `grail serve --embedded` starts one")
    else:
        yield Finding("service", State.OK, f"{running.base_url}, process {running.pid}")


def _database() -> Iterator[Finding]:
    from sqlalchemy import text
    from sqlalchemy.exc import InterfaceError, OperationalError

    from app import schema
    from app.db import Database
    from cli.failures import CommandFailed

    try:
        url = database_url()
    except CommandFailed:
        yield Finding("database", State.NOTE, "GRAIL_DATABASE_URL is not set: fine for `grail serve --embedded`")
        return
    db = Database(url, pool_size=1, application="grail doctor")
    try:
        with db.engine.connect() as connection:
            number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        at, newest = schema.current(url), schema.head()
    except (OperationalError, InterfaceError):
        yield Finding("database", State.WRONG, "does not answer: check GRAIL_DATABASE_URL and the server")
        return
    finally:
        db.dispose()
    version = number // 10_000
    old = version < OLDEST_POSTGRES
    yield Finding(
        "database", State.WRONG if old else State.OK, f"Postgres {version}" + (": 15 or newer is needed" if old else "")
    )
    if at == newest:
        yield Finding("schema", State.OK, str(at))
        yield from of_rows(url)
    else:
        yield Finding("schema", State.WRONG, f"{at or 'no schema'}, but this needs {newest}: run `grail migrate`")


def _broker() -> Iterator[Finding]:
    from app import queue
    from app.errors import Unavailable

    running = running_stack(data_directory())
    url = os.environ.get("GRAIL_BROKER_URL") or (running.broker_url if running else None)
    if not url:
        yield Finding("broker", State.NOTE, "GRAIL_BROKER_URL is not set: fine for `grail serve --embedded`")
        return
    try:
        queue.ping(url, 3.0)
    except Unavailable as error:
        yield Finding("broker", State.WRONG, f"{error.detail}: check GRAIL_BROKER_URL and the server")
    else:
        yield Finding("broker", State.OK, "answers")


def _rates() -> Iterator[Finding]:
    """Without its counter the service lets every call pass: a note, since nothing is refused or lost."""
    from app.config import load_settings
    from app.rates.counting import AWAY, NO_SERVER, answers, url_of

    settings, running = load_settings(), running_stack(data_directory())
    broker = os.environ.get("GRAIL_BROKER_URL") or (running.broker_url if running else "")
    if not settings.rate_limits_on:
        yield Finding("rates", State.NOTE, "GRAIL_RATE_LIMITS_ON is false: no limit holds")
        return
    if not broker and not settings.rate_url:
        yield Finding("rates", State.NOTE, "calls are counted where the broker is, once there is one")
        return
    url = url_of(settings.model_copy(update={"broker_url": broker}))
    if url is None:
        yield Finding("rates", State.NOTE, NO_SERVER)
    elif answers(url, 3.0):
        yield Finding("rates", State.OK, "calls are counted")
    else:
        yield Finding("rates", State.NOTE, AWAY)


def _secret() -> Iterator[Finding]:
    from app.config import load_settings
    from app.secret import NoMasterSecret, masters

    if not load_settings().master_secret:
        yield Finding("secret", State.NOTE, "GRAIL_MASTER_SECRET is not set: fine for `grail serve --embedded`")
        return
    try:
        yield Finding("secret", State.OK, f"{len(masters())}, long enough")
    except NoMasterSecret as error:
        yield Finding("secret", State.WRONG, f"{error.detail}: {error.how_to_mend}")


def _content_keys() -> Iterator[Finding]:
    """What people write can be sealed and opened: keys, their store, its list of what was destroyed."""
    from app.config import load_settings
    from app.envelope.kms import load_keys
    from app.envelope.service import open_store
    from app.errors import ServiceError

    settings = load_settings()
    if not settings.key_encryption_keys and settings.key_encryption_keys_file is None:
        text = "GRAIL_KEY_ENCRYPTION_KEYS is not set: fine for `grail serve --embedded`"
        yield Finding("content keys", State.NOTE, text)
        return
    try:
        keys, store = load_keys(settings), open_store(settings)
        wrapped, destroyed = store.versions(), store.tombstones.records()
        store.dispose()
    except ServiceError as error:
        yield Finding("content keys", State.WRONG, f"{error.detail}: {error.how_to_mend}")
        return
    missing = sorted(set(wrapped) - set(keys.versions))
    if missing:
        lost = f"{sum(wrapped[one] for one in missing)} keys are wrapped by version {missing[0]}, which is not set"
        yield Finding("content keys", State.WRONG, f"{lost}: set it again beside the others")
    else:
        yield Finding("content keys", State.OK, f"{sum(wrapped.values())}, and {destroyed} destroyed")


def _signing_key() -> Iterator[Finding]:
    """What this process was given to sign the audit log with can sign."""
    from app.audit_log.errors import NoSigningKey
    from app.audit_log.signing import is_set, load_signers
    from app.config import load_settings

    settings = load_settings()
    if settings.signing_unsafe:
        yield Finding("signing key", State.NOTE, "GRAIL_SIGNING_UNSAFE: the audit log is signed with everybody's key")
    elif not is_set(settings):
        text = "none is set here: fine for `grail serve --embedded`, and where only the control worker has it"
        yield Finding("signing key", State.NOTE, text)
    else:
        try:
            signers = load_signers(settings)
            yield Finding("signing key", State.OK, f"{', '.join(one.key_id for one in signers)} of {signers[0].name}")
        except NoSigningKey as error:
            yield Finding("signing key", State.WRONG, f"{error.detail}: {error.how_to_mend}")


def _model() -> Iterator[Finding]:
    from grail.model.bundled import ModelMissing, cache_directory, gguf_file

    try:
        source = gguf_file()
    except ModelMissing as error:
        yield Finding("model", State.WRONG, str(error))
        return
    converted = sorted(cache_directory().glob("*/model.safetensors"))
    if converted:
        yield Finding("model", State.OK, str(converted[-1].parent))
    else:
        note = f"{source.name} is converted into {cache_directory()} on first use (20 s, 540 MB)"
        yield Finding("model", State.NOTE, note)


def _device() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding("device", State.WRONG, f"torch can not be imported ({error}): run `make setup`")
        return
    from worker.device import pick_device

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    device = pick_device()
    if device.startswith("cuda") and torch.cuda.is_available():
        what = f"{torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB"
    else:
        what = f"{torch.get_num_threads()} threads, {memory:.0f} GB of memory"
    yield Finding("device", State.OK, f"{device} ({what}), torch {torch.__version__}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, settings, _disk, model_roots, _servers, _service, _database, _broker, _rates, _secret,
    _content_keys, _signing_key, secret_files, backups, traces, _model, _device,
)  # fmt: skip


def model_path() -> None:
    """Print where the bundled SmolLM2-135M-Instruct lies; converts it on first use (about 20 s, 540 MB)."""
    from grail.model.bundled import bundled_model

    path: Path = bundled_model()
    typer.echo(str(path))
