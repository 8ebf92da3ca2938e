"""The key store on Postgres and on SQLite: what is destroyed stays so, whoever comes first, dies or restores."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.embedded.services import EmbeddedServices
from app.envelope.errors import ContentDestroyed, KeyStoreAway, KeyStoreDamaged, NoKeyEncryptionKey, TombstonesDamaged
from app.envelope.keyring import Keyring
from app.envelope.kms import FileKeys, Wrapped
from app.envelope.sealing import Place, open_sealed, seal
from app.envelope.service import leaf_of, shred
from app.envelope.store import Destroyed, KeyStore
from app.envelope.tombstones import Tombstone, TombstoneFile

Opens = Callable[[str], KeyStore]
Backup = tuple[Callable[[], None], Callable[[], None]]
NOW = 1_700_000_000_000


def ids(count: int) -> list[uuid.UUID]:
    return [uuid.uuid4() for _ in range(count)]


def wrapped(*key_ids: uuid.UUID, version: int = 1) -> dict[uuid.UUID, Wrapped]:
    return {key_id: Wrapped(version, key_id.bytes * 3) for key_id in key_ids}


def test_keys_are_kept_and_destroyed_ones_are_tombstones(store: KeyStore) -> None:
    one, other, never = ids(3)
    assert store.add(wrapped(one, other), NOW) == {one, other}
    assert store.get([one, other, never]) == wrapped(one, other)
    assert store.destroy([one, never], NOW + 1) == sorted(
        [Destroyed(one, NOW + 1, 1), Destroyed(never, NOW + 1, 0)], key=lambda found: found.key_id
    )
    assert store.get([one, other, never]) == {
        **wrapped(other), one: Tombstone(one, NOW + 1), never: Tombstone(never, NOW + 1)
    }  # fmt: skip


def test_a_key_is_never_replaced_and_a_destroyed_one_never_comes_back(store: KeyStore) -> None:
    one, other, new = ids(3)
    store.add(wrapped(one, other), NOW)
    store.destroy([other], NOW)
    assert store.add({**wrapped(new), one: Wrapped(1, b"x"), other: Wrapped(1, b"y")}, NOW) == {new}
    assert store.get([one, other, new]) == {**wrapped(one, new), other: Tombstone(other, NOW)}


def test_destroying_again_keeps_the_first_time_and_adds_nothing_to_the_list(store: KeyStore) -> None:
    gone = ids(3)
    store.add(wrapped(*gone), NOW)
    first = store.destroy(gone, NOW)
    assert store.destroy(gone, NOW + 99) == first
    assert store.tombstones.records() == 3


def test_thousands_at_once(store: KeyStore) -> None:
    many = ids(2500)
    assert store.add(wrapped(*many), NOW) == set(many)
    assert store.get(many) == wrapped(*many)
    assert len(store.destroy(many[:1500], NOW)) == 1500
    assert store.versions() == {1: 1000}


def test_rotation_wraps_anew_and_content_stays_as_it_is(store: KeyStore, keys: FileKeys) -> None:
    kept, gone = ids(25), ids(2)
    ring = Keyring(store, keys)
    made = ring.create([*kept, *gone])
    place = Place("example", uuid.UUID(int=1), "prompt")
    content = {key_id: seal(made[key_id], place, b"text") for key_id in kept}
    store.destroy(gone, NOW)
    both = FileKeys({2: b"n" * 32, 1: b"k" * 32})
    assert next(store.rewrap(both, at_once=10)) == 10  # broken off after the first chunk
    assert store.versions() == {1: 15, 2: 10}
    assert sum(store.rewrap(both, at_once=10)) == 15
    assert list(store.rewrap(both)) == []
    assert store.versions() == {2: 25}
    new = Keyring(store, FileKeys({2: b"n" * 32}))
    assert {open_sealed(key, place, content[key_id]) for key_id, key in new.get(kept).items()} == {b"text"}
    with pytest.raises(NoKeyEncryptionKey):
        Keyring(store, keys).get(kept)
    with pytest.raises(NoKeyEncryptionKey):
        next(store.rewrap(FileKeys({3: b"o" * 32})))


def test_rotation_does_not_bring_back_what_is_destroyed_meanwhile(store: KeyStore, keys: FileKeys) -> None:
    key_ids = ids(4)
    Keyring(store, keys).create(key_ids)
    both = FileKeys({2: b"n" * 32, 1: b"k" * 32})
    wrap = both.wrap

    def destroys_first(secrets: list[tuple[bytes, bytes]]) -> list[Wrapped]:
        store.destroy(key_ids[:2], NOW)
        return wrap(secrets)

    both.wrap = destroys_first  # type: ignore[method-assign,assignment]
    assert sum(store.rewrap(both)) == 2
    assert all(isinstance(store.get(key_ids)[key_id], Tombstone) for key_id in key_ids[:2])


@pytest.fixture
def backup(store_url: str, services: EmbeddedServices, tmp_path: Path) -> Iterator[Backup]:
    """(take a backup of the store, restore it), as an operator does."""
    url = make_url(store_url)
    if url.get_backend_name() == "sqlite":
        where, copy = Path(url.database or ""), tmp_path / "copy"

        def take() -> None:
            subprocess.run([sys.executable, "-c", BACKUP, str(where), str(copy)], check=True)

        def restore() -> None:
            for path in where.parent.glob(f"{where.name}-*"):
                path.unlink()
            shutil.copy(copy, where)

        yield take, restore
        return
    name, saved = str(url.database), f"saved_{uuid.uuid4().hex[:12]}"

    def clone() -> None:
        services.postgres.create_database(saved, template=name)

    def put_back() -> None:
        services.postgres.drop_database(name)
        services.postgres.create_database(name, template=saved)

    yield clone, put_back
    services.postgres.drop_database(saved)


BACKUP = "import sqlite3,sys; a,b=map(sqlite3.connect,sys.argv[1:]); a.backup(b); b.close()"


def test_an_old_backup_destroys_again_what_was_destroyed_since(
    store_url: str, open_store: Opens, keys: FileKeys, backup: Backup
) -> None:
    """The whole way: sealed content, a backup of its keys, the erasure, the restore, and nothing to be read."""
    take, restore = backup
    first = open_store(store_url)
    ring = Keyring(first, keys)
    gone, kept = ids(2)
    place = Place("example", uuid.UUID(int=1), "prompt")
    content = {key_id: seal(key, place, b"Quincestreet") for key_id, key in ring.create([gone, kept]).items()}
    first.dispose()
    take()
    open_store(store_url).add(wrapped(*ids(1)), NOW)
    ring = Keyring(open_store(store_url), keys)
    leaves = [leaf_of(one) for chunk in shred(ring, [gone]) for one in chunk]
    assert [(leaf["key_id"], leaf["kek_version"]) for leaf in leaves] == [(str(gone), 1)]
    with pytest.raises(ContentDestroyed):
        ring.get([gone])
    ring.store.dispose()

    restore()
    unreplayed = KeyStore(store_url, first.tombstones)
    assert isinstance(unreplayed.get([gone])[gone], Wrapped), "the backup held the key: else this test shows nothing"
    unreplayed.dispose()
    again = Keyring(open_store(store_url), keys)
    with pytest.raises(ContentDestroyed):
        again.get([gone])
    assert open_sealed(again.get([kept])[kept], place, content[kept]) == b"Quincestreet"
    assert [one.at_ms for chunk in shred(again, [gone]) for one in chunk] == [
        one.at_ms for tombstones in first.tombstones.read() for one in tombstones
    ]


def test_a_lost_or_older_list_stops_the_store_until_it_is_exported_again(
    store_url: str, open_store: Opens, tombstones: TombstoneFile
) -> None:
    store, gone = open_store(store_url), ids(5)
    store.destroy(gone[:2], NOW)
    older = tombstones.path.read_bytes()
    store.destroy(gone[2:], NOW)
    whole = tombstones.path.read_bytes()
    for found in (None, older, older + Tombstone(uuid.uuid4(), NOW).record() * 3):
        tombstones.path.unlink(missing_ok=True)
        if found is not None:
            tombstones.path.write_bytes(found)
        with pytest.raises(TombstonesDamaged):
            open_store(store_url)
    tombstones.path.unlink()
    assert store.export() == 5
    assert sorted(tombstones.path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert store.export() == 0
    open_store(store_url)


def test_the_file_of_sqlite_is_private_and_forgets_what_was_destroyed(tmp_path: Path, open_store: Opens) -> None:
    path = tmp_path / "keys" / "keys.sqlite3"
    store, key_id = open_store(f"sqlite:///{path}"), uuid.uuid4()
    secret = os.urandom(60)
    store.add({key_id: Wrapped(1, secret)}, NOW)
    on_disk = lambda: any(secret in one.read_bytes() for one in path.parent.iterdir())  # noqa: E731
    assert on_disk()
    store.destroy([key_id], NOW)
    assert not on_disk()
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}


COUNT = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM data_key").fetchone()[0])
"""


def test_a_store_that_is_opened_again_loses_nothing_of_what_others_write(tmp_path: Path, open_store: Opens) -> None:
    """POSIX drops all locks of a process on a file once it closes it, however often it has it open: another process
    then takes itself for the last one and removes the log of changes that this one goes on writing to."""
    path = tmp_path / "keys" / "keys.sqlite3"
    store = open_store(f"sqlite:///{path}")
    store.add(wrapped(*ids(3)), NOW)
    open_store(f"sqlite:///{path}").dispose()  # as a command does in the process of a service
    for there in (3, 5, 7):
        done = subprocess.run([sys.executable, "-c", COUNT, str(path)], capture_output=True, text=True, check=True)
        assert int(done.stdout) == there
        store.add(wrapped(*ids(2)), NOW)


def test_a_file_that_is_no_store_is_told_so(tmp_path: Path, open_store: Opens) -> None:
    path = tmp_path / "keys.sqlite3"
    path.write_bytes(b"something else, and long enough to be looked at as the head of a file" * 100)
    with pytest.raises(KeyStoreDamaged) as told:
        open_store(f"sqlite:///{path}")
    assert "restore the newest backup" in str(told.value.mend)
    assert path.read_bytes().startswith(b"something else")


def test_a_store_that_is_away_says_so(tmp_path: Path, tombstones: TombstoneFile) -> None:
    with pytest.raises(KeyStoreAway):
        KeyStore("postgresql://nobody@127.0.0.1:9/none", tombstones, timeout_seconds=1).open()


def work_until_killed(url: str, place: Path, told: Path) -> None:
    """Make keys and destroy half of them, and tell of each what is certain."""
    store = KeyStore(url, TombstoneFile(place)).open()
    with told.open("a", encoding="ascii") as tell:
        while True:
            made = ids(4)
            store.add(wrapped(*made), NOW)
            tell.write("".join(f"made {key_id}\n" for key_id in made[2:]))
            store.destroy(made[:2], NOW)
            tell.write("".join(f"gone {key_id}\n" for key_id in made[:2]))
            tell.flush()


def test_nothing_is_lost_and_nothing_comes_back_when_processes_are_killed(
    store_url: str, open_store: Opens, tombstones: TombstoneFile, tmp_path: Path
) -> None:
    open_store(store_url).dispose()
    context = multiprocessing.get_context("fork")
    files = [tmp_path / f"told-{number}" for number in range(2)]
    for _ in range(2):
        writers = [context.Process(target=work_until_killed, args=(store_url, tombstones.path, told)) for told in files]
        aims = [told.stat().st_size + 1000 if told.exists() else 1000 for told in files]
        for writer in writers:
            writer.start()
        until(lambda aims=aims: all(f.exists() and f.stat().st_size > s for f, s in zip(files, aims, strict=True)))
        for writer in writers:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
    store = open_store(store_url)
    told = [line.split() for file in files for line in file.read_text("ascii").splitlines()]
    gone = {uuid.UUID(key_id) for word, key_id in told if word == "gone"}
    made = {uuid.UUID(key_id) for word, key_id in told if word == "made"}
    assert len(gone) > 10
    assert all(isinstance(one, Tombstone) for one in store.get(gone).values()) and len(store.get(gone)) == len(gone)
    assert store.get(made) == wrapped(*made)
    promised = {one.key_id for chunk in tombstones.read() for one in chunk}
    assert gone <= promised
    assert all(isinstance(one, Tombstone) for one in store.get(promised).values())


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
