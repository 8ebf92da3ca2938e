"""The whole service as processes: its parts come back when killed; stopped or killed whole, all of it is gone."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import httpx
import pytest

from app.embedded.errors import AlreadyRunning
from app.embedded.services import EmbeddedServices
from cli.failures import CommandFailed
from cli.serve import Kind, run_worker
from cli.stack import ENDS_WITH_OTHERS, STATE_FILE, Stack, StackFailed, running_stack
from tests.app.embedded.embedded_host import living, ordinary_user, until
from tests.cli.conftest import Grail

PROCESSES = {"api", "gpu", "control", "beat", "postgres", "valkey"}
SERVE = "import sys; sys.argv[0] = 'grail'; from cli.main import main; main()"


def alive(pids: Iterator[int] | list[int]) -> list[int]:
    """Those that run; a zombie that nobody has collected yet does not."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def of_service(directory: Path) -> list[int]:
    """Every process that works on `directory`, or whose log is in it."""
    found = set(living(directory))
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "fd" / "2").startswith(str(directory)):
                found.add(int(process.name))
        except OSError:
            continue
    return alive(sorted(found - {os.getpid()}))


@pytest.fixture
def directory(open_directory: Path) -> Iterator[Path]:
    """Where a service may run. Fails the test when a process is left."""
    made = open_directory / "data"
    yield made
    until(lambda: not of_service(made))
    EmbeddedServices(made).destroy()


class Served:
    """A `grail serve --embedded` in a process of its own."""

    def __init__(self, directory: Path, python: list[str] | None = None, *more: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAIL_")}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in (os.getcwd(), *sys.path) if path)
        self.directory = directory
        self.process = subprocess.Popen(
            [*(python or [sys.executable]), "-c", SERVE, "serve", "--embedded", "--port", "0", *more],
            env={**environment, "GRAIL_DATA_DIR": str(directory), "HOME": "/nowhere"}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def said(self, word: str) -> str:
        """What it says up to the line with `word`."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if word in line:
                return "".join(lines)
        raise AssertionError("".join(lines))

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def ready(url: str) -> bool:
    return bool(httpx.get(f"{url}/readyz", timeout=120, trust_env=False).json()["ready"])


def test_parts_that_are_killed_come_back_at_the_same_address_and_stopping_leaves_nothing(directory: Path) -> None:
    with Stack({}, data_dir=directory, fsync=False) as stack:
        before = stack.processes
        assert set(before) == PROCESSES
        assert {os.getpgid(pid) for pid in before.values()}.isdisjoint({os.getpgid(0)}), "Ctrl-C must not reach them"
        for name in ("api", "control"):
            assert stack.kill(name) == before[name]
        assert ready(stack.base_url)  # kept waiting by our listening socket, not refused
        stack.wait_ready()
        after = stack.processes
        assert set(after) == PROCESSES
        assert all((after[name] == before[name]) == (name not in {"api", "control"}) for name in PROCESSES)
        assert stack.children["api"].restarts == 1
        told = running_stack(directory)
        assert told is not None
        assert (told.base_url, told.database_url, told.pid) == (stack.base_url, stack.database_url, os.getpid())
        assert stat.S_IMODE((directory / STATE_FILE).stat().st_mode) == 0o600
        with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()} .*GRAIL_DATA_DIR"):
            Stack({}, data_dir=directory).start()
        with pytest.raises(StackFailed, match=r"can not listen on 127\.0\.0\.1 port"):
            Stack({}, data_dir=directory.parent / "other", port=stack.port).start()
        logs = {path.stem for path in stack.logs.iterdir()}
        assert logs == PROCESSES
    assert alive(list(after.values())) == []
    assert running_stack(directory) is None
    stack.destroy()
    assert not (directory / "postgres").exists()


def test_a_part_that_dies_at_its_start_is_named_with_the_end_of_its_log_and_nothing_stays(directory: Path) -> None:
    stack = Stack({"GRAIL_SWEEP_SECONDS": "soon"}, data_dir=directory, fsync=False, gpu_workers=0)
    with pytest.raises(StackFailed, match=r"died while it started; its log .*\.log ends:\n[\s\S]*sweep_seconds"):
        stack.start()
    assert of_service(directory) == []
    assert not (directory / STATE_FILE).exists()


class Frail(Stack):
    """One of whose parts ends so many times more while somebody waits."""

    ends = 0

    def _api_state(self) -> str:
        if self.ends:
            self.ends -= 1
            until(lambda: "beat" in self.processes)
            self.kill("beat")
            return "not ready"
        return super()._api_state()


def test_a_part_that_ends_with_another_is_waited_for_but_not_for_ever_and_not_at_the_start(directory: Path) -> None:
    """As a control worker does whose broker is killed: it is started again like that."""
    stack = Frail({}, data_dir=directory, gpu_workers=0, fsync=False)
    stack.ends = 1
    with pytest.raises(StackFailed, match="beat died while it started"), stack:
        pass
    stack.ends = 0
    with stack:
        stack.children["beat"].longest_pause_seconds = 0.1
        for ends in (1, ENDS_WITH_OTHERS):
            stack.ends = ends
            stack.wait_ready()
            assert stack.ends == 0 and ready(stack.base_url)
        stack.ends = ENDS_WITH_OTHERS + 1
        with pytest.raises(StackFailed, match="beat died"):
            stack.wait_ready()


def test_without_restarts_a_killed_part_stays_dead(directory: Path) -> None:
    with Stack({}, data_dir=directory, fsync=False, restart=False, gpu_workers=0) as stack:
        stack.kill("beat")
        assert "beat" not in stack.processes
        with pytest.raises(StackFailed, match="beat died"):
            stack.wait_ready()


def test_external_servers_are_used_and_their_addresses_are_not_written_down(
    directory: Path, database_url: str, services: EmbeddedServices
) -> None:
    urls = {"GRAIL_DATABASE_URL": database_url, "GRAIL_BROKER_URL": services.broker_url}
    with Stack(urls, data_dir=directory, embedded=False, gpu_workers=0) as stack:
        assert set(stack.processes) == PROCESSES - {"postgres", "valkey", "gpu"}
        assert ready(stack.base_url)
        assert set(json.loads((directory / STATE_FILE).read_text())) == {"pid", "base_url"}


def test_without_servers_the_names_of_the_settings_are_said(
    directory: Path, monkeypatch: pytest.MonkeyPatch, grail: Grail
) -> None:
    monkeypatch.delenv("GRAIL_DATABASE_URL", raising=False)
    said = grail("serve", "--data-dir", directory, "--port", 0, expect=1)
    assert "GRAIL_DATABASE_URL is not set" in said.err and "--embedded" in said.err


def somebody() -> list[str] | None:
    """The command line of an ordinary user's Python, where root can become one; else our own."""
    try:
        return ordinary_user() if os.geteuid() == 0 else None
    except pytest.skip.Exception:
        return None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_served_service_answers_and_leaves_no_process_however_it_ends(
    directory: Path, number: signal.Signals, grail: Grail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once as root (where the tests run as root), once as an ordinary user."""
    python = somebody() if number is signal.SIGKILL else None
    directory.parent.chmod(0o777)
    with Served(directory, python, "--gpu-workers", "0" if number is signal.SIGINT else "1") as served:
        said = served.said("keys create")
        assert str(directory / "logs") in said
        running = running_stack(directory)
        assert running is not None and running.pid == served.process.pid and running.base_url in said
        monkeypatch.delenv("GRAIL_DATABASE_URL", raising=False)
        monkeypatch.delenv("GRAIL_URL", raising=False)
        monkeypatch.setenv("GRAIL_DATA_DIR", str(directory))
        monkeypatch.setenv("GRAIL_KEY", grail("keys", "create", "me", "--role", "admin").out.strip())
        assert grail("models", "list", "--json").json == []
        pids = of_service(directory)
        assert len(pids) >= len(PROCESSES) - (number is signal.SIGINT)
        assert python is None or 0 not in {Path(f"/proc/{pid}").stat().st_uid for pid in pids}
        served.process.send_signal(number)
        assert served.process.wait(60) == (0 if number is signal.SIGINT else -number)
        until(lambda: not of_service(directory))
    assert running_stack(directory) is None


@pytest.mark.parametrize("at_work", ["initdb", "-m cli.api"])
def test_a_terminated_start_leaves_no_process(directory: Path, at_work: str) -> None:
    with Served(directory, None, "--gpu-workers", "0") as served:
        until(lambda: any(at_work in command for command in _commands(directory)), seconds=90)
        served.process.terminate()
        served.process.wait(60)
        assert of_service(directory) == []


def _commands(directory: Path) -> Iterator[str]:
    for pid in of_service(directory):
        try:
            yield Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue


def test_a_gpu_worker_does_not_start_where_the_base_can_not_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAIL_QUANTISATION", "int3")
    with pytest.raises(CommandFailed, match="one of none, int8, nf4"):
        run_worker(Kind.GPU)
