"""Start, use, stop, start again; one supervisor a directory."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path

import kombu
import psycopg
import pytest
import redis
from embedded_host import Host, living, plain, remember, remembered, until

from app.embedded.errors import AlreadyRunning, ServerFailed
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.services import EmbeddedServices
from app.embedded.supervisor import Child
from app.embedded.valkey import EmbeddedValkey


def test_both_servers_answer_then_leave_no_process(directory: Path) -> None:
    with EmbeddedServices(directory, fsync=False) as services:
        with psycopg.connect(plain(services.database_url)) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
            assert connection.execute("SHOW fsync").fetchone() == ("off",)
            assert connection.execute("SHOW log_error_verbosity").fetchone() == ("terse",)  # no row in the log
        with redis.Redis.from_url(services.valkey.redis_url()) as broker:
            assert broker.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert broker.config_get("save") == {"save": ""}
            assert broker.config_get("appendonly") == {"appendonly": "no"}
            assert broker.config_get("port") == {"port": "0"}
        with kombu.Connection(services.broker_url) as celery:
            celery.connect()
        for server, log in services.logs.items():
            assert log.parent == directory / "logs"
            assert re.search("ready to accept connections", log.read_text(), re.IGNORECASE), server
        assert living(directory)
    assert living(directory) == {}


def test_data_and_urls_outlive_a_restart_and_stop_is_idempotent(directory: Path) -> None:
    services = EmbeddedServices(directory)  # with fsync
    services.start()
    remember(services.database_url, 1)
    urls = services.database_url, services.broker_url
    services.stop()
    services.stop()
    services.start()
    remember(services.database_url, 2)
    assert remembered(services.database_url) == [1, 2]
    assert (services.database_url, services.broker_url) == urls
    services.stop()
    with EmbeddedServices(directory, fsync=False) as again:
        assert remembered(again.database_url) == [1, 2]


def test_a_database_is_cloned_from_a_template_and_dropped_under_its_users(directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        server.create_database("first")
        remember(server.url("first"), 7)
        server.create_database("a copy's", template="first")
        assert remembered(server.url("a copy's")) == [7]
        with psycopg.connect(plain(server.url("a copy's"))):
            server.drop_database("a copy's")
        assert not server.has_database("a copy's")
        server.drop_database("a copy's")


def test_the_users_shell_does_not_move_the_socket(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "5999")
    monkeypatch.setenv("PGDATA", "/nowhere")
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        monkeypatch.delenv("PGPORT")
        remember(server.url(), 1)


def test_the_servers_do_not_run_as_root_and_others_cannot_enter(directory: Path) -> None:
    with EmbeddedServices(directory, fsync=False) as services:
        for child in (services.postgres.child, services.valkey.child):
            assert child is not None and child.process is not None
            assert Path(f"/proc/{child.process.pid}").stat().st_uid != 0
        for path in (services.postgres.sockets, services.postgres.sockets.parent / "cluster"):
            assert path.stat().st_mode & 0o077 == 0
        assert services.valkey.socket.parent.stat().st_mode & 0o077 == 0


def test_a_second_supervisor_is_told_who_runs_and_what_to_do(directory: Path) -> None:
    with EmbeddedServices(directory, fsync=False) as first:
        remember(first.database_url, 1)
        with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()} .*kill {os.getpid()}.*GRAIL_DATA_DIR"):
            EmbeddedServices(directory, fsync=False).start()
        with pytest.raises(AlreadyRunning):
            EmbeddedServices(directory).destroy()
        assert remembered(first.database_url) == [1]
    with EmbeddedServices(directory, fsync=False) as second:
        assert remembered(second.database_url) == [1]


def test_a_start_that_fails_half_way_leaves_nothing_running_and_nothing_locked(directory: Path) -> None:
    with EmbeddedValkey(directory / "valkey"), pytest.raises(AlreadyRunning):
        EmbeddedServices(directory, fsync=False).start()  # Postgres came up, Valkey could not
    assert living(directory) == {}
    with EmbeddedServices(directory, fsync=False):
        pass


def test_a_cluster_that_lost_files_is_named_and_not_made_anew(directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        cluster = server.sockets.parent / "cluster"
    (cluster / "PG_VERSION").unlink()
    with pytest.raises(ServerFailed, match="not a whole cluster: remove it"):
        server.start()
    assert (cluster / "base").is_dir()


def test_an_interrupted_initdb_is_begun_again(directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        place = server.sockets.parent
    (place / "cluster").rename(place / "cluster.partial")
    (place / "cluster.partial" / "PG_VERSION").unlink()
    with server:
        remember(server.url(), 1)
    assert not (place / "cluster.partial").exists()


def test_a_server_that_cannot_start_shows_its_log(directory: Path) -> None:
    with EmbeddedPostgres(directory / "postgres", fsync=False) as server:
        assert server.child is not None
        broken = server.child
    broken.command = [*broken.command, "-c", "no_such_setting=1"]
    with pytest.raises(ServerFailed, match=r"logs/postgres\.log ends:[\s\S]*no_such_setting"):
        broken.start(timeout_seconds=1.0)


def test_stop_at_any_moment_of_a_start_leaves_no_process(directory: Path) -> None:
    with EmbeddedValkey(directory / "valkey") as server:
        child: Child = server.child  # type: ignore[assignment]

    def start() -> None:
        with pytest.raises(ServerFailed):
            child.start(timeout_seconds=0.0)

    for _ in range(5):
        starting = threading.Thread(target=start)
        starting.start()
        child.stop()
        starting.join()
        child.stop()
        assert living(directory) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_servers_end_with_their_parent_and_start_again_with_their_data(
    directory: Path, number: signal.Signals
) -> None:
    with Host(directory) as host:
        remember(host.told()["database_url"], 5)
        host.process.send_signal(number)
        host.process.wait(30)
        until(lambda: living(directory) == {})
    with EmbeddedServices(directory, fsync=False) as services:
        assert remembered(services.database_url) == [5]


@pytest.mark.parametrize("at_work", ["initdb", "bin/postgres -D", "valkey-server"])
def test_a_parent_killed_while_it_starts_leaves_no_process(directory: Path, at_work: str) -> None:
    with Host(directory) as host:
        until(lambda: any(at_work in command for command in living(directory).values()))
        host.process.kill()
    until(lambda: living(directory) == {})
    with EmbeddedServices(directory, fsync=False) as services:
        remember(services.database_url, 1)
