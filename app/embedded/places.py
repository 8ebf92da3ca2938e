"""Where embedded servers keep their data and sockets.

Root's servers run as another user, so root never follows or adopts what somebody else may have laid in a shared
directory, and never changes the mode of a parent directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import PlaceRefused

SOCKET_PATH_MAX = 107
"""Bytes of a unix socket's path, the kernel's limit."""

PLAIN = re.compile(r"[A-Za-z0-9_./+@=-]+")
"""Socket paths that every URL parser and libpq read the same way (libpq splits a host at commas)."""

OUTSIDE_PARENT = Path("/var/tmp")  # noqa: S108  mkdtemp makes a new, private directory; survives a reboot

READ_ME = "The data of GRAIL Server's embedded server for {directory}, which links here. Remove both together.\n"


def closed_parent(path: Path) -> Path | None:
    """The uppermost parent directory that does not let everybody through, if any."""
    closed = [parent for parent in path.resolve().parents if not parent.stat().st_mode & stat.S_IXOTH]
    return closed[-1] if closed else None


def open_to_others(path: Path) -> bool:
    """True when another user can walk to `path`: every parent directory lets everybody through."""
    return closed_parent(path) is None


def own_directory(path: Path, who: Account | None = None, *, mode: int = 0o700) -> Path:
    """Make `path` (one level), or take it when it is a directory of ours: never through a symbolic link, never
    somebody else's. `who` becomes its owner. Raises PlaceRefused."""
    who = who or Account()
    path.mkdir(mode=mode, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise PlaceRefused(f"{path} is not a directory that we may use ({error.strerror}): remove it") from error
    try:
        owner = os.fstat(handle).st_uid
        if owner not in {os.geteuid(), who.uid}:
            raise PlaceRefused(
                f"{path} belongs to user {owner}: run as that user, remove it, or choose another data directory "
                "with GRAIL_DATA_DIR"
            )
        if who.drops:
            os.fchown(handle, who.uid, who.gid)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)
    return path


def data_place(directory: Path, who: Account, notes: list[str]) -> Path:
    """`directory`, made and ours; or, when its parents are closed to the server's user, a new place outside with a link
    from `directory`, told in `notes`. Ours alone when the server runs as us; others may walk through, and only walk,
    when it runs as somebody else, who owns just what lies in it. Raises PlaceRefused."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory = directory.parent.resolve() / directory.name
    closed = closed_parent(directory) if who.drops else None
    if closed is not None and not directory.is_symlink():
        if directory.exists():
            raise PlaceRefused(
                f"the server runs as {who.name}, who cannot enter {closed}, and {directory} was made by somebody else: "
                f"run as its owner, remove it, or choose another data directory with GRAIL_DATA_DIR"
            )
        _link_outside(directory)
    place = directory.resolve()
    if who.drops and (closed := closed_parent(place)) is not None:
        raise PlaceRefused(
            f"the server runs as {who.name}, who cannot enter {closed}, to which {directory} leads: remove that link "
            "or choose another data directory with GRAIL_DATA_DIR"
        )
    if place != directory:
        notes.append(f"the data of {directory} is in {place}")
    return own_directory(place, mode=0o711 if who.drops else 0o700)


def _link_outside(directory: Path) -> None:
    """A new name each time, so that removing the link is enough for a fresh start and nobody can lie in wait for it."""
    place = Path(tempfile.mkdtemp(prefix=f"grail-{os.getuid()}-", dir=OUTSIDE_PARENT))
    (place / "README").write_text(READ_ME.format(directory=directory), encoding="utf-8")
    try:
        directory.symlink_to(place, target_is_directory=True)
    except FileExistsError:  # another start was faster: its place is taken
        (place / "README").unlink()
        place.rmdir()


def _fits(socket: Path) -> bool:
    return len(os.fsencode(socket)) <= SOCKET_PATH_MAX and PLAIN.fullmatch(str(socket)) is not None


def socket_place(wanted: Path, file: str, who: Account, notes: list[str]) -> Path:
    """A private directory of `who`'s for a socket called `file`: `wanted`, or a short one below the system's temporary
    directory when the path is too long for a socket, told in `notes`. The same each time, so that URLs stay good.
    Raises PlaceRefused."""
    if _fits(wanted / file):
        return own_directory(wanted, who)
    name = f"grail-{os.getuid()}-{hashlib.sha256(os.fsencode(wanted)).hexdigest()[:12]}"
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108  own_directory takes only our own
        short = parent.resolve() / name
        if _fits(short / file) and (not who.drops or open_to_others(short)):
            notes.append(f"the socket {file} is in {short}: its path below {wanted} does not suit a socket")
            return own_directory(short, who)
    raise PlaceRefused(f"found no directory for the socket {file}: choose a shorter GRAIL_DATA_DIR than {wanted}")


def leave_socket_place(used: Path, wanted: Path) -> None:
    """Remove the short directory that a stopped server's socket had, if it had one and nothing is left in it."""
    if used != wanted:
        with suppress(OSError):
            used.rmdir()
