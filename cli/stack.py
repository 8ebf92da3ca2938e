"""The whole service as child processes: `grail serve`, `grail demo`, the end-to-end tests.

Each child is watched by app.embedded's supervisor: it gets a kernel signal when this process dies, however it dies;
one that dies is started again after a pause that grows; stopping is in order (API and workers, then the servers) and
ends with SIGKILL. The API's listening socket is ours and handed down, so that its address outlives a killed API.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from app import schema
from app.audit_log import signing
from app.bundles import model_keys
from app.config import read_secret_files
from app.embedded.account import Account
from app.embedded.errors import EmbeddedError
from app.embedded.locks import SupervisorLock
from app.embedded.services import EmbeddedServices
from app.embedded.supervisor import Child
from app.envelope import kms
from app.envelope.errors import NoKeyEncryptionKey
from app.secret import NoMasterSecret, ensure_file

LOG = logging.getLogger(__name__)
CODE = Path(__file__).resolve().parents[1]
STATE_FILE = "stack.json"
STOP_SECONDS = 10.0
"""For each of SIGTERM and SIGQUIT, then comes SIGKILL. A worker ends at its next step and gives its job back; one that
is killed leaves it to its lease."""
LONGEST_PAUSE_SECONDS = 30.0
CONTENT_KEY_NAMES = ("GRAIL_KEY_ENCRYPTION_KEYS", "GRAIL_KEY_ENCRYPTION_KEYS_FILE")
ENDS_WITH_OTHERS = 3
"""So often a process of a running service may end while one that it needs is started again."""
MODEL_SIGNING_NAMES = ("GRAIL_MODEL_SIGNING_KEY", "GRAIL_MODEL_SIGNING_KEY_FILE")
SIGNING_NAMES = ("GRAIL_SIGNING_KEY", "GRAIL_SIGNING_KEY_FILE", "GRAIL_SIGNING_UNSAFE")
SECRET_NAMES = ("GRAIL_MASTER_SECRET", "GRAIL_MASTER_SECRET_FILE")


class StackFailed(EmbeddedError):
    """A part of the service did not come up; says which, where its log lies and how it ends."""


@dataclass(frozen=True, slots=True)
class Running:
    """What a running stack tells other commands on the same data directory. The URLs of embedded servers hold no
    secret; those of external ones are not written down."""

    pid: int
    base_url: str
    database_url: str | None = None
    broker_url: str | None = None


def running_stack(data_dir: Path) -> Running | None:
    """The stack that runs on `data_dir`, or None."""
    try:
        found = Running(**json.loads((data_dir / STATE_FILE).read_text(encoding="utf-8")))
        os.kill(found.pid, 0)
    except PermissionError:  # another user's: it lives
        return found
    except (OSError, ValueError, TypeError):
        return None
    return found


class Stack:
    """The service on `data_dir`. `settings_env` holds GRAIL_* settings; with `embedded=False` also GRAIL_DATABASE_URL
    and GRAIL_BROKER_URL, there or in the environment. `port=0` takes a free one. A context manager, ready inside.
    """

    def __init__(
        self,
        settings_env: Mapping[str, str],
        *,
        data_dir: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        embedded: bool = True,
        gpu_workers: int = 1,
        logs: Path | None = None,
        restart: bool = True,
        fsync: bool = True,
        ready_seconds: float = 120.0,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.logs = (logs or self.data_dir / "logs").absolute()
        self.host, self.port = host, port
        self.gpu_workers, self.restart, self.ready_seconds = gpu_workers, restart, ready_seconds
        self.settings_env = dict(settings_env)
        self.services = EmbeddedServices(self.data_dir, fsync=fsync) if embedded else None
        self.children: dict[str, Child] = {}
        self._undo = ExitStack()

    @property
    def base_url(self) -> str:
        """Where the API listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def database_url(self) -> str:
        """Where the database is. Raises StackFailed when nobody said so."""
        return self.services.database_url if self.services else self._external("GRAIL_DATABASE_URL")

    @property
    def broker_url(self) -> str:
        """Where the broker is, in Celery's form. Raises StackFailed when nobody said so."""
        return self.services.broker_url if self.services else self._external("GRAIL_BROKER_URL")

    @property
    def notes(self) -> list[str]:
        """What a person should know: embedded data or sockets that had to be put outside `data_dir`."""
        return self.services.notes if self.services else []

    @property
    def processes(self) -> dict[str, int]:
        """Name -> process id of everything that runs now."""
        return {
            name: child.process.pid
            for name, child in (self.children | self._servers()).items()
            if child.process is not None and child.process.poll() is None
        }

    def start(self) -> None:
        """Start everything and wait until it is ready, or start nothing. Raises an EmbeddedError."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            lock = SupervisorLock(self.data_dir)
            lock.acquire()
            undo.callback(lock.release)
            listening = undo.enter_context(self._listen())
            self._check_secret()
            self._check_content_keys()
            self._check_signing_key()
            if self.services:
                undo.enter_context(self.services)
            schema.upgrade(self.database_url)
            undo.callback(self._stop_children)
            self._start_children(listening)
            self.wait_ready(self.ready_seconds, starting=True)
            self._tell()
            undo.callback((self.data_dir / STATE_FILE).unlink, missing_ok=True)
            self._undo = undo.pop_all()

    def wait_ready(self, timeout_seconds: float = 120.0, *, starting: bool = False) -> None:
        """Wait until every process has loaded its code and the API says that it is ready, as after `kill`. Raises
        StackFailed: at once when one dies that is not started again, or at the first start (`starting`). Later on one
        may end because another was killed, as a control worker does with its broker: a few ends of each are waited for.
        """
        deadline = time.monotonic() + timeout_seconds
        deaths = {name: self._deaths(child) for name, child in self.children.items()}
        if not self.restart:
            deaths = dict.fromkeys(deaths, 0)
        elif not starting:
            deaths = {name: count + ENDS_WITH_OTHERS for name, count in deaths.items()}
        state = "nothing yet"
        while True:
            for name, child in self.children.items():
                if self._deaths(child) > deaths[name]:
                    raise StackFailed(f"{name} died while it started; its log {child.log} ends:\n{child.tail()}")
            waiting = [name for name in self.children if not self._loaded(name)]
            state = f"waiting for {', '.join(waiting)}" if waiting else self._api_state()
            if state == "ready":
                return
            if time.monotonic() > deadline:
                raise StackFailed(f"the service was not ready after {timeout_seconds:g} s: {state}; logs: {self.logs}")
            time.sleep(0.05)

    def kill(self, name: str) -> int:
        """kill -9 one process, by its name in `processes`, and wait until that was noticed; its former id. Raises
        KeyError."""
        pid, child = self.processes[name], (self.children | self._servers())[name]
        deaths = self._deaths(child)
        self._pidfile(name).unlink(missing_ok=True)
        os.kill(pid, signal.SIGKILL)
        while self._deaths(child) == deaths:
            time.sleep(0.01)
        return pid

    def stop(self) -> None:
        """Stop everything in order. Idempotent; no process is left behind."""
        self._undo.close()

    def destroy(self) -> None:
        """Stop, and remove the embedded servers' data, also what lies outside `data_dir`. For tests."""
        self.stop()
        if self.services:
            self.services.destroy()

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _external(self, name: str) -> str:
        read_secret_files()
        url = self.settings_env.get(name) or os.environ.get(name)
        if not url:
            raise StackFailed(f"{name} is not set: set it to a running server, or start with --embedded")
        return url

    def _check_secret(self) -> None:
        """An embedded service makes the secret that it has not been given. Raises StackFailed where there is none."""
        if any({**os.environ, **self.settings_env}.get(name) for name in SECRET_NAMES):
            return
        if self.services is None:
            raise StackFailed(f"GRAIL_MASTER_SECRET is not set. {NoMasterSecret.mend}")
        self.settings_env["GRAIL_MASTER_SECRET_FILE"] = str(ensure_file(self.data_dir))

    def _check_content_keys(self) -> None:
        """An embedded service makes the key that wraps its content's keys, unless it was given some. Raises StackFailed
        where there is none."""
        if any({**os.environ, **self.settings_env}.get(name) for name in CONTENT_KEY_NAMES):
            return
        if self.services is None:
            raise StackFailed(f"GRAIL_KEY_ENCRYPTION_KEYS is not set. {NoKeyEncryptionKey.mend}")
        self.settings_env["GRAIL_KEY_ENCRYPTION_KEYS_FILE"] = str(kms.ensure_file(self.data_dir))

    def _check_signing_key(self) -> None:
        """An embedded service makes the keys that sign its audit log and its versions, too, if it was given none."""
        given = {**os.environ, **self.settings_env}
        if self.services is not None and not any(given.get(name) for name in MODEL_SIGNING_NAMES):
            self.settings_env["GRAIL_MODEL_SIGNING_KEY_FILE"] = str(model_keys.ensure_file(self.data_dir))
        if self.services is None or any(given.get(name) for name in SIGNING_NAMES):
            return
        self.settings_env["GRAIL_SIGNING_KEY_FILE"] = str(signing.ensure_file(self.data_dir))
        if not given.get("GRAIL_LOG_ORIGIN"):
            self.settings_env["GRAIL_LOG_ORIGIN"] = signing.EMBEDDED_ORIGIN

    def _servers(self) -> dict[str, Child]:
        if self.services is None:
            return {}
        servers = {"postgres": self.services.postgres.child, "valkey": self.services.valkey.child}
        return {name: child for name, child in servers.items() if child is not None}

    def _listen(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listening = socket.create_server((self.host, self.port), family=family, backlog=512)
        except OSError as error:
            raise StackFailed(
                f"can not listen on {self.host} port {self.port} ({error.strerror}): choose another with --host, --port"
            ) from None
        self.port = listening.getsockname()[1]
        return listening

    def _environment(self) -> dict[str, str]:
        """The caller's environment, our settings over it. Children run in /, so paths are absolute, and the directories
        that models may come from are spelt out: the default would be that directory. The API looks anew whenever it is
        asked whether it is ready, since `wait_ready` asks right after a `kill`."""
        roots = json.dumps([str(self.data_dir), str(Path.cwd())])
        ours = {
            "GRAIL_DATA_DIR": str(self.data_dir),
            "GRAIL_DATABASE_URL": self.database_url,
            "GRAIL_BROKER_URL": self.broker_url,
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        return {"GRAIL_MODEL_ROOTS": roots, "GRAIL_READY_KEPT_SECONDS": "0", **os.environ, **self.settings_env, **ours}

    def _start_children(self, listening: socket.socket) -> None:
        environment = self._environment()
        self.logs.mkdir(parents=True, exist_ok=True)
        gpu = ["gpu", *(f"gpu-{number}" for number in range(2, self.gpu_workers + 1))][: self.gpu_workers]
        commands = {"api": ["-m", "cli.api", str(listening.fileno())]}
        commands |= {name: self._worker(name, "gpu", "solo", 1) for name in gpu}
        commands |= {"control": self._worker("control", "control", "threads", 4)}
        commands |= {"beat": celery("beat")}
        for name, arguments in commands.items():
            keep_open = [listening.fileno()] if name == "api" else []
            self.children[name] = self._child(name, arguments, environment, keep_open)
        for child in self.children.values():
            child.start()

    def _worker(self, name: str, queue: str, pool: str, concurrency: int) -> list[str]:
        pidfile = str(self._pidfile(name)).replace("%", "%%")  # Celery fills in %h and the like
        return [*worker(name, queue, pool, concurrency), "--pidfile", pidfile]

    def _run(self, name: str) -> Path:
        return self.data_dir / "run" / name

    def _pidfile(self, name: str) -> Path:
        return self._run(name) / "pid"

    def _child(self, name: str, arguments: list[str], environment: dict[str, str], keep_open: list[int]) -> Child:
        place = self._run(name)
        place.mkdir(parents=True, exist_ok=True)

        def prepare() -> None:
            for stale in place.iterdir():
                if stale.name.startswith("pid"):  # of a killed predecessor
                    stale.unlink()

        return Child(
            name, [sys.executable, "-P", *arguments], self.logs / f"{name}.log", lambda: True,
            place=place, who=Account(), stop_signal=signal.SIGTERM, death_signal=signal.SIGKILL, prepare=prepare,
            environment=environment, keep_open=keep_open, restart=self.restart,
            longest_pause_seconds=LONGEST_PAUSE_SECONDS,
        )  # fmt: skip

    def _deaths(self, child: Child) -> int:
        dead = child.process is not None and child.process.poll() is not None
        return child.restarts + dead * (not self.restart)

    def _loaded(self, name: str) -> bool:
        """Celery writes its pid file once the application and its tasks are imported. Nothing waits for beat's."""
        return name in {"api", "beat"} or self._pidfile(name).is_file()

    def _api_state(self) -> str:
        """`ready`, or what is missing."""
        try:
            answer: dict[str, Any] = httpx.get(f"{self.base_url}/readyz", timeout=10.0, trust_env=False).json()
        except (httpx.HTTPError, ValueError) as error:
            return f"the API does not answer ({type(error).__name__})"
        missing = [f"{name}: {state}" for name, state in answer.get("checks", {}).items() if state != "ok"]
        return "ready" if answer.get("ready") else "; ".join(missing)

    def _stop_children(self) -> None:
        """All at once, so that the slowest sets the time."""
        threads = [threading.Thread(target=child.stop, args=(STOP_SECONDS,)) for child in self.children.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _tell(self) -> None:
        """Write the state file, readable by us alone, under a temporary name first."""
        urls = {"database_url": self.database_url, "broker_url": self.broker_url} if self.services else {}
        state = {"pid": os.getpid(), "base_url": self.base_url, **urls}
        partial = self.data_dir / f".{STATE_FILE}.{os.getpid()}"
        with suppress(FileNotFoundError):
            partial.unlink()
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(state, file)
        partial.replace(self.data_dir / STATE_FILE)


def celery(*arguments: str) -> list[str]:
    """Python's arguments that run a Celery command of ours."""
    return ["-m", "celery", "--workdir", str(CODE), "-A", "worker.celery", "--quiet", *arguments, "--loglevel", "INFO"]


def worker(name: str, queue: str, pool: str, concurrency: int) -> list[str]:
    """Python's arguments that run a worker. Gossip and mingling are of no use: the job row is the truth."""
    return celery(
        "worker", "--queues", queue, "--pool", pool, "--concurrency", str(concurrency), "--hostname", f"{name}@%h",
        "--without-gossip", "--without-mingle",
    )  # fmt: skip
