"""The whole service with real processes, which can be killed, frozen, cut off, filled up and sent into another time.

What dies is started again by the service's own supervisor (cli.stack). The database is reached by the service through
`cutter`, by tests and benches directly.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import redis
from psycopg.rows import dict_row

from app.config import Settings
from app.db import Database
from cli.stack import Stack
from tests.e2e.service import Service, tiny_policy
from tests.faults.cutter import Cutter
from tests.fixtures.facts import TEMPLATE

CLOCKS = Path(__file__).resolve().parent / "clock"
DISK_BYTES = 64 << 20
WRITTEN = ("adapters", "artifacts", "scratch")
"""Directories that workers write to."""
POINTS = ("queued", "load", "original", "reference", "localise", "unlearn", "candidate", "report", "evaluated")
"""Where a job can be seen to stand, in order: its state, or the stage that comes after the last artefact."""
STAGES = ("original", "reference", "localise", "unlearn", "candidate")
LEASE_SECONDS = float(os.environ.get("GRAIL_FAULTS_LEASE", "5"))
"""On a machine that others use, too short a lease runs out under a worker that merely waits for the processor."""
CLOCKED = ("gpu", "gpu-2", "control", "api", "beat")


def settings_env(models: Path) -> dict[str, str]:
    """Everything happens at once, and leases run out soon."""
    return {
        "GRAIL_MODEL_ROOTS": f'["{models}"]',
        "GRAIL_LEASE_SECONDS": str(LEASE_SECONDS),
        "GRAIL_HEARTBEAT_SECONDS": "0.5",
        "GRAIL_PLAN_SECONDS": "1",
        "GRAIL_SWEEP_SECONDS": "1",
        "GRAIL_BREAKER_SECONDS": "3600",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{CLOCKS}:{os.getcwd()}",
    }


def fault_policy(steps: int = 12) -> dict[str, Any]:
    """Batches close after a second; every gate lets through, for faults are looked for and not forgetting."""
    policy = tiny_policy()
    gate = {
        "min_cus": 0, "min_rs": 0, "min_request_cus": 0, "min_request_rs": 0, "min_earlier_cus": 0,
        "max_forget_gap": 100, "max_request_forget_gap": 100, "max_ppl_ratio": 1e12, "in_base_accuracy": 1.0,
    }  # fmt: skip
    unlearn = {**policy["unlearn"], "steps": steps, "score_every_steps": 6, "learning_rate": 1e-3}
    return {**policy, "window_seconds": 1, "gate": gate, "unlearn": unlearn}


class CutStack(Stack):
    """A stack whose children reach the database through the proxy."""

    cutter: Cutter | None = None

    def _environment(self) -> dict[str, str]:
        assert self.services is not None
        postgres = self.services.postgres
        self.cutter = Cutter(postgres.sockets / f".s.PGSQL.{5432}")
        self._cutting = self.cutter.__enter__()
        return {**super()._environment(), "GRAIL_DATABASE_URL": self.cutter.url()}


class Ground:
    """One running service with a model. A context manager."""

    def __init__(self, models: Path, place: Path, *, small_disk: bool = False) -> None:
        self.models, self.place, self.small_disk = models, place, small_disk
        self.clocks = place / "clocks"
        self.frozen: dict[str, list[int]] = {}
        self._undo = ExitStack()

    def __enter__(self) -> Ground:
        self.clocks.mkdir(parents=True)
        environment = {**settings_env(self.models), "GRAIL_TEST_CLOCKS": str(self.clocks)}
        self.data = self.place / "data"
        with ExitStack() as undo:
            if self.small_disk:  # by links: a file is moved from one of them to another
                disk = undo.enter_context(small_disk(self.place / "disk"))
                self.data.mkdir()
                for name in WRITTEN:
                    (disk / name).mkdir()
                    (self.data / name).symlink_to(disk / name)
            self.stack = CutStack(environment, data_dir=self.data, fsync=False, gpu_workers=2)
            undo.callback(self.stack.destroy)
            undo.enter_context(self.stack)
            undo.callback(self.thaw_all)
            for child in (self.stack.children | self.stack._servers()).values():
                child.longest_pause_seconds = 0.5
            self.service = undo.enter_context(Service(self.stack))
            self.wait_for_workers()
            self.cutter = self.stack.cutter
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    # what can be asked

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        """Rows of one statement, on a connection of its own, once the database answers."""
        sockets = self.stack.services.postgres.sockets  # type: ignore[union-attr]
        deadline = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(
                    dbname="grail", user="grail", host=str(sockets), port=5432, connect_timeout=5, autocommit=True,
                    row_factory=dict_row,
                ) as connection:  # fmt: skip
                    return connection.execute(statement, values).fetchall()  # type: ignore[call-overload]
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def key(self, role: str) -> str:
        """The key of a role."""
        return str(self.service.clients[role].headers["Authorization"]).removeprefix("Bearer ")

    def register(self, name: str, steps: int = 12, *, approval: bool = False) -> None:
        """A served model with the taught adapter as version 1; with `approval` an officer lets candidates through."""
        base, adapter = self.models / "base", self.models / "adapter"
        policy = {**fault_policy(steps), "require_approval": approval}
        self.service.register(name, base, adapter, TEMPLATE, policy)

    def point(self, model: str) -> str:
        """Where the model's newest job stands: one of POINTS, a final state, or `none`."""
        found = self.rows(
            "SELECT j.state, j.artefacts FROM job j JOIN served_model m ON m.id = j.served_model_id "
            "WHERE m.name = %s ORDER BY j.id DESC LIMIT 1", model,
        )  # fmt: skip
        if not found:
            return "none"
        state, artefacts = found[0]["state"], found[0]["artefacts"]
        if state != "running":
            return str(state)
        done = [number for number, stage in enumerate(STAGES) if stage in artefacts]
        if not done:
            return "load"
        return STAGES[done[-1] + 1] if done[-1] + 1 < len(STAGES) else "report"

    def until_point(self, model: str, point: str, seconds: float = 60) -> str:
        """Go on once the model's newest job stands at that point or has passed it; where it stands then."""
        wanted, deadline = POINTS.index(point), time.monotonic() + seconds
        while True:
            here = self.point(model)
            if here != "none" and (here not in POINTS or POINTS.index(here) >= wanted):
                return here
            assert time.monotonic() < deadline, f"the job of {model} stood at {here} and did not come to {point}"
            time.sleep(0.005)

    def wait_for_workers(self, seconds: float = 120) -> None:
        """Go on once both gpu workers have said that they are there: they have imported what computes."""
        wait(lambda: self.rows("SELECT count(*) AS n FROM worker")[0]["n"] >= 2, seconds)

    # what can go wrong

    def pids(self, name: str) -> list[int]:
        """The process of that name and all its children; none while it is not there."""
        pid = self.stack.processes.get(name)
        return [] if pid is None else [pid, *_descendants(pid)]

    def kill(self, name: str) -> None:
        """kill -9; nothing if it is dead already."""
        with suppress(KeyError, ProcessLookupError):
            self.stack.kill(name)
        self.frozen.pop(name, None)

    def freeze(self, name: str) -> None:
        """SIGSTOP of a process and its children."""
        self.frozen[name] = self.frozen.get(name, []) + self.pids(name)
        for pid in self.frozen[name]:
            _signal(pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        for pid in self.frozen.pop(name, []):
            _signal(pid, signal.SIGCONT)

    def thaw_all(self) -> None:
        """SIGCONT to all that is frozen."""
        for name in list(self.frozen):
            self.thaw(name)

    def freeze_for(self, name: str, seconds: float) -> threading.Timer:
        """Freeze, and thaw later by itself."""
        self.freeze(name)
        timer = threading.Timer(seconds, self.thaw, [name])
        timer.start()
        return timer

    def broker(self) -> redis.Redis:
        """A connection to the broker."""
        return redis.Redis(
            unix_socket_path=str(self.stack.services.valkey.socket), socket_timeout=5,  # type: ignore[union-attr]
        )  # fmt: skip

    def flush(self) -> None:
        """The broker forgets everything."""
        with suppress(redis.RedisError), self.broker() as broker:
            broker.flushall()

    def ring_again(self, times: int = 2) -> None:
        """Every job's doorbells, once more and once more."""
        from app.queue import client

        for row in self.rows("SELECT id FROM job ORDER BY id DESC LIMIT 20"):
            for task in ("grail.run_job", "grail.publish_job") * times:
                with suppress(Exception):
                    client(self.stack.broker_url).send_task(task, args=[str(row["id"])], retry=False)

    def set_clock(self, name: str, seconds: float) -> None:
        """A process' wall clock is wrong by so much from now on."""
        partial = self.clocks / f".{name}"
        partial.write_text(str(seconds), encoding="ascii")
        partial.replace(self.clocks / name)

    def fill_disk(self) -> None:
        """No byte more fits where workers write."""
        with suppress(OSError), (self.place / "disk" / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    def free_disk(self) -> None:
        """It was somebody's large file."""
        (self.place / "disk" / "filler").unlink(missing_ok=True)

    def heal(self) -> None:
        """Everything is as it was before: thawed, in time, with room, up; breakers are closed as an operator does."""
        self.thaw_all()
        self.free_disk()
        self.cutter.disarm()  # type: ignore[union-attr]
        for name in CLOCKED:
            (self.clocks / name).unlink(missing_ok=True)
        self.stack.wait_ready()

    def close_breakers(self) -> None:
        """What an operator does who has mended what was broken."""
        for row in self.rows("SELECT name FROM served_model WHERE breaker_opened_at IS NOT NULL"):
            with suppress(httpx.HTTPError):
                self.service.clients["operator"].post(f"/v1/models/{row['name']}/breaker/close")

    def sweep_files(self) -> None:
        """What the control worker does now and then with files that are an hour old, at once and with all of them."""
        from app.jobs import scratch
        from app.orphans import service as orphans

        db = Database(self.stack.database_url)
        orphans.remove(db, Settings(data_dir=self.data), after_seconds=0.0)
        deadline = time.monotonic() + 15  # a worker that lost its lease leaves once it has seen that
        while scratch.sweep(db, self.data) or (any((self.data / "scratch").glob("*")) and time.monotonic() < deadline):
            time.sleep(0.1)
        time.sleep(1)  # one that stood still in the middle of a certificate that another has issued since
        orphans.remove(db, Settings(data_dir=self.data), after_seconds=0.0)
        db.dispose()

    def until_ended(self, model: str, seconds: float = 120) -> list[str]:
        """Wait until nothing of a model is open any more; what is still open when patience ends."""
        deadline = time.monotonic() + seconds
        while True:
            self.close_breakers()
            self.rows(A_MINUTE_LATER)
            still = [
                f"{row['what']} {row['id']} is {row['state']}{row['more']}"
                for row in self.rows(OPEN, model, model, model)
            ]
            if not still:
                return []
            if time.monotonic() > deadline:
                return [*still, *self.last_words()]
            time.sleep(0.1)

    def last_words(self) -> list[str]:
        """What each process last logged that was more than a round of its work, for whoever reads why a test failed."""
        said = []
        for name in self.stack.processes:
            lines = (self.stack.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
            telling = [line for line in lines if '"event": "Task ' not in line and "Scheduler: " not in line]
            said.append(f"{name}: {(lines or [''])[-1][-130:]} ... {(telling or [''])[-1][-300:]}")
        return said


A_MINUTE_LATER = """
UPDATE report SET certify_tried_at = NULL
WHERE certified_at IS NULL AND certify_tried_at < now() - interval '2 seconds' RETURNING id
"""
"""Certificates whose issuer was killed are tried again after a minute: nobody waits for it here."""
OPEN = """
SELECT 'report' AS what, p.id, 'uncertified' AS state, '' AS more
FROM report p JOIN job j ON j.id = p.job_id JOIN served_model m ON m.id = j.served_model_id
WHERE m.name = %s AND p.certified_at IS NULL AND j.finished_at IS NOT NULL
UNION ALL
SELECT 'request' AS what, r.id, r.state::text, '' AS more FROM request r JOIN served_model m ON m.id = r.served_model_id
WHERE m.name = %s AND r.completed_at IS NULL
UNION ALL
SELECT 'job', j.id, j.state::text,
       concat(' by ', j.lease_owner, ' until ', j.lease_until, ', not before ', j.not_before, ', attempt ', j.attempts,
              ', put off ', j.put_off, ', needs ', j.needed_bytes, '; it is ', clock_timestamp())
FROM job j JOIN served_model m ON m.id = j.served_model_id
WHERE m.name = %s AND j.finished_at IS NULL
"""


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _descendants(pid: int) -> list[int]:
    """Children and theirs: Postgres answers callers from processes of their own."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text(encoding="ascii").split()):
                found += [child, *_descendants(child)]
    return found


def may_mount() -> bool:
    """Whether a file system of our own can be mounted here."""
    return os.geteuid() == 0 and subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False
    ).returncode == 0


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of DISK_BYTES, mounted there."""
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def wait(found: Callable[[], Any], seconds: float = 60) -> Any:
    """What is found, once it is."""
    deadline = time.monotonic() + seconds
    while not (there := found()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)
    return there
