"""What the environment says to `grail doctor`: settings, directories, files of secrets, backups, traces."""

from __future__ import annotations

import importlib.util
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from app.audit_log.signing import FILE as SIGNING_KEY
from app.bundles.model_keys import FILE as MODEL_KEY
from app.config import SECRETS, Settings, load_settings
from app.secret import FILE
from app.telemetry.snapshot import newest_backup
from cli.findings import Finding, State
from cli.remote import data_directory

OWN = (FILE, SIGNING_KEY, MODEL_KEY)
"""Files of secrets that an embedded service makes for itself."""
MOUNTED = Path("/run/secrets")
"""Where containers see secrets; whoever is in the container reads them anyway."""
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def settings() -> Iterator[Finding]:
    """Every GRAIL_* variable can be read."""
    try:
        Settings()
    except ValidationError as error:
        names = ", ".join(f"GRAIL_{'.'.join(map(str, fault['loc'])).upper()}" for fault in error.errors())
        yield Finding("settings", State.WRONG, f"{names} can not be read: see the table in docs/operations.md")
        return
    known = {f"GRAIL_{name.upper()}" for name in Settings.model_fields} | OTHERS
    strange = sorted(
        name
        for name in os.environ
        if name.startswith("GRAIL_") and not {name, name.removesuffix("_FILE")} & known
    )
    if strange:
        yield Finding("settings", State.NOTE, f"{', '.join(strange)}: no setting is called that")
    else:
        yield Finding("settings", State.OK, "every one can be read")


OTHERS = {
    *SECRETS, "GRAIL_URL", "GRAIL_DEBUG", "GRAIL_DEVICE", "GRAIL_DEVICE_MAP", "GRAIL_QUANTISATION", "GRAIL_MODEL_CACHE",
    "GRAIL_OPENDSR_KEY",
}  # fmt: skip
"""Variables that are read elsewhere than in app.config."""


def model_roots() -> Iterator[Finding]:
    """Directories that models come from are there."""
    roots = load_settings().allowed_roots
    missing = [str(root) for root in roots if load_settings().model_roots and not root.is_dir()]
    if missing:
        yield Finding("model roots", State.WRONG, f"{', '.join(missing)} not there: mount, or set GRAIL_MODEL_ROOTS")
    else:
        yield Finding("model roots", State.OK, f"{len(roots)} to register models from")


def secret_paths() -> dict[str, Path]:
    """Files of secrets that the environment names."""
    names = (*SECRETS, "GRAIL_OPENDSR_KEY", "GRAIL_SIGNING_KEY", "GRAIL_MODEL_SIGNING_KEY")
    named = {name: os.environ.get(f"{name}_FILE") for name in names}
    return {name: Path(path) for name, path in named.items() if path}


def secret_files() -> Iterator[Finding]:
    """Files that hold secrets are there, and are readable by their user alone."""
    files = secret_paths() | {name: data_directory() / name for name in OWN if (data_directory() / name).is_file()}
    faults = [fault for name, path in files.items() for fault in _faults(name, path)]
    if faults:
        yield Finding("secret files", State.WRONG, "; ".join(faults))
    elif files:
        yield Finding("secret files", State.OK, f"{len(files)}, readable by their user alone")


def _faults(name: str, path: Path) -> Iterator[str]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        path.read_bytes()
    except OSError as error:
        yield f"{name}: {path} can not be read ({error.strerror})"
        return
    if mode & 0o077 and not path.is_relative_to(MOUNTED):
        yield f"{name}: others may read {path}: `chmod 600 {path}`"


def backups() -> Iterator[Finding]:
    """The newest whole backup is young enough, where GRAIL_BACKUP_DIR says where backups are."""
    place = load_settings().backup_dir
    if place is None:
        yield Finding("backups", State.NOTE, "GRAIL_BACKUP_DIR is not set: nobody watches their age")
        return
    made, most = newest_backup(place), load_settings().backup_max_hours
    hours = None if made is None else (time.time() - made) / 3600
    if hours is None:
        yield Finding("backups", State.WRONG, f"there is none in {place}: `grail backup create`")
    elif hours > most:
        yield Finding("backups", State.WRONG, f"the newest is {hours:.0f} h old, more than {most:g}: was none made?")
    else:
        yield Finding("backups", State.OK, f"the newest is {hours:.0f} h old")


def traces() -> Iterator[Finding]:
    """What sends traces is installed, where they are asked for."""
    if not load_settings().traces_endpoint:
        return
    try:
        there = importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        there = False
    if there:
        yield Finding("traces", State.OK, "are sent")
    else:
        yield Finding("traces", State.WRONG, "can not be sent: `pip install 'grail-server[traces]'`")
