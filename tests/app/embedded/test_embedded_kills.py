"""A killed server comes back with its data, whatever its predecessor left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import psycopg
import pytest
import redis
from embedded_host import Host, living, plain, remember, remembered, until

from app.embedded.errors import AlreadyRunning
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.services import EmbeddedServices
from app.embedded.supervisor import Child
from app.embedded.valkey import EmbeddedValkey


def pid(child: Child | None) -> int:
    assert child is not None and child.process is not None
    return child.process.pid


def test_a_killed_postgres_comes_back_with_its_data_again_and_again(directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        for value in range(3):
            remember(server.url(), value)
            killed = pid(server.child)
            os.kill(killed, signal.SIGKILL)
            until(lambda killed=killed: pid(server.child) != killed)  # type: ignore[misc]
            server.child.wait_ready()
            assert remembered(server.url()) == list(range(value + 1))
        assert server.child.restarts == 3


def test_a_killed_postgres_comes_back_beside_a_backend_that_never_looks_up(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that computes does not notice that the postmaster died, and no new one may start beside it."""
    monkeypatch.setattr("app.embedded.supervisor.PATIENCE_SECONDS", 0.5)
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        remember(server.url(), 1)
        with psycopg.connect(plain(server.url())) as busy:
            backend = busy.info.backend_pid
            os.kill(backend, signal.SIGSTOP)  # stands for a long computation
            killed = pid(server.child)
            os.kill(killed, signal.SIGKILL)
            until(lambda: pid(server.child) != killed)
            server.child.wait_ready()
            assert remembered(server.url()) == [1]
        assert backend not in living(directory)


def test_a_killed_valkey_comes_back(directory: Path) -> None:
    with EmbeddedValkey(directory / "valkey") as server:
        killed = pid(server.child)
        os.kill(killed, signal.SIGKILL)
        until(lambda: pid(server.child) != killed)
        server.child.wait_ready()
        with redis.Redis.from_url(server.redis_url()) as broker:
            assert broker.rpush("queue", "id") == 1


def test_an_old_server_that_outlives_its_killed_parent_is_waited_for(directory: Path) -> None:
    """Its pid file must not be removed, and no second server started, while it still shuts down."""
    with Host(directory) as host:
        told = host.told()
        remember(told["database_url"], 1)
        os.kill(told["postgres"], signal.SIGSTOP)
        host.process.kill()
        host.process.wait()
    services = EmbeddedServices(directory, fsync=False)
    pid_file = services.postgres.wanted / "cluster" / "postmaster.pid"
    seen = []

    def slow_end() -> None:
        until(lambda: services.postgres.child is not None)
        seen.append(pid_file.read_text().split()[0])
        os.kill(told["postgres"], signal.SIGCONT)

    ending = threading.Thread(target=slow_end)
    ending.start()
    with services:
        ending.join()
        assert seen == [str(told["postgres"])]
        assert remembered(services.database_url) == [1]
        assert told["postgres"] not in living(directory)


def test_an_old_server_that_never_ends_is_killed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.embedded.supervisor.PATIENCE_SECONDS", 0.5)
    with Host(directory) as host:
        told = host.told()
        remember(told["database_url"], 1)
        os.kill(told["postgres"], signal.SIGSTOP)
        os.kill(told["valkey"], signal.SIGSTOP)
    with EmbeddedServices(directory, fsync=False) as services:
        assert remembered(services.database_url) == [1]
        assert not {told["postgres"], told["valkey"]} & set(living(directory))


def test_pid_files_of_a_killed_server_whose_number_is_now_another_process(directory: Path) -> None:
    """As after a reboot or in a new container; Postgres itself would refuse to start."""
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        remember(server.url(), 1)
        place, who = server.sockets.parent, server.who
        files = [place / "cluster" / "postmaster.pid", server.sockets / ".s.PGSQL.5432.lock"]
        texts = [file.read_text() for file in files]
    user = {"user": who.uid, "group": who.gid, "extra_groups": []} if who.drops else {}
    with subprocess.Popen(["sleep", "600"], cwd="/", **user) as stranger:
        for file, text in zip(files, texts, strict=True):
            file.write_text("\n".join([str(stranger.pid), *text.split("\n")[1:]]))
            if who.drops:
                os.chown(file, who.uid, who.gid)
        with server:
            assert remembered(server.url()) == [1]
        assert stranger.poll() is None, "a process that is not ours was killed"
        stranger.kill()


def test_the_lock_ends_with_its_holder_and_names_a_live_one(directory: Path) -> None:
    with Host(directory) as host:
        host.told()
        with pytest.raises(AlreadyRunning, match=f"process {host.process.pid} "):
            EmbeddedServices(directory, fsync=False).start()
        host.process.kill()
        host.process.wait()
        with EmbeddedServices(directory, fsync=False):
            pass
