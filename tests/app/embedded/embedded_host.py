"""A process that runs the embedded servers, to be killed by tests; and how tests see what is left of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg
import pytest

from app.embedded.places import open_to_others

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534

CODE = """
import json, os, signal, sys
from pathlib import Path
from app.embedded import binaries, places
from app.embedded.services import EmbeddedServices

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell begin without it
if "TEST_CACHE" in os.environ:
    binaries.CACHE_PARENT = Path(os.environ["TEST_CACHE"])
with EmbeddedServices(Path(sys.argv[1]), fsync=False) as services:
    told = {
        "uid": os.geteuid(),
        "database_url": services.database_url,
        "redis_url": services.valkey.redis_url(),
        "postgres": services.postgres.child.process.pid,
        "valkey": services.valkey.child.process.pid,
        "binaries": services.postgres.child.command[0],
        "notes": services.notes,
    }
    print(json.dumps(told), flush=True)
    sys.stdin.read()
"""


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll until `condition` holds; fails the test at the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds:g} s"
        time.sleep(0.02)


def living(directory: Path) -> dict[int, str]:
    """Processes, not zombies, that work in `directory` or a place it links to, or name one in their command line. Not
    the processes of tests. Seen from /proc, not through the code under test."""
    roots = {str(path.resolve()) for path in (directory, directory / "postgres", directory / "valkey")}
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in {os.getpid(), os.getppid()}:
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            here = os.readlink(process / "cwd")
        except OSError:
            continue
        if "-c \nimport json" not in command and any(root in command or here.startswith(root) for root in roots):
            found[int(process.name)] = command
    return found


def plain(url: str) -> str:
    """libpq's form of SQLAlchemy's URL."""
    return url.replace("postgresql+psycopg://", "postgresql://")


def remember(url: str, value: int) -> None:
    """Store `value`, committed."""
    with psycopg.connect(plain(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def remembered(url: str) -> list[int]:
    """Every stored value."""
    with psycopg.connect(plain(url)) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def ordinary_user() -> list[str]:
    """The command line that runs this Python as `nobody`, with the one right to read it where only root may (pyenv in
    /root). Skips the test where that cannot be done."""
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if not (open_to_others(Path(sys.executable)) and open_to_others(ROOT / "app")):
        command += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command.append(sys.executable)
    if subprocess.run([*command, "-c", "pass"], cwd="/", capture_output=True, check=False).returncode != 0:
        pytest.skip("nobody cannot run this Python here")
    return command


class Host:
    """A process with running services in `directory`."""

    def __init__(self, directory: Path, *, python: list[str] | None = None, **environment: str) -> None:
        site = next(path for path in sys.path if path.endswith("site-packages"))
        path = os.pathsep.join((environment.pop("first", str(ROOT)), str(ROOT), site))
        self.process = subprocess.Popen(
            [*(python or [sys.executable]), "-c", CODE, str(directory)],
            cwd="/", env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What it says once both servers run."""
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
