"""`grail doctor`, and the processes that containers start one by one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import httpx
import pytest

from app import schema
from app.config import Settings
from cli import doctor
from tests.cli.conftest import Grail
from tests.cli.test_cli_stack import SERVE


def states(grail: Grail, expect: int = 0) -> dict[str, str]:
    lines = [line.split() for line in grail("doctor", expect=expect).out.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) > 1}


def test_a_sound_machine_is_well(grail: Grail, settings: Settings) -> None:
    found = states(grail)
    for name in ("python", "packages", "disk", "embedded", "database", "schema", "broker", "rates", "device"):
        assert found[name] == "ok", name
    assert found["service"] == "note"


def test_what_is_wrong_is_marked_and_the_way_out_said(
    grail: Grail, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.downgrade(settings.database_url)
    monkeypatch.setenv("GRAIL_BROKER_URL", "redis://127.0.0.1:9/0")
    monkeypatch.setattr(doctor, "ROOM_BYTES", 10**18)
    monkeypatch.setattr(doctor, "CHECKS", tuple(check for check in doctor.CHECKS if check.__name__ != "_device"))
    said = grail("doctor", expect=1)
    assert "3 to mend" in said.err
    assert "no limit holds" in " ".join(said.out.split())
    assert "run `grail migrate`" in said.out and "GRAIL_BROKER_URL" in said.out and "GRAIL_DATA_DIR" in said.out
    monkeypatch.setenv("GRAIL_DATABASE_URL", "postgresql://127.0.0.1:9/grail")
    assert states(grail, expect=1)["database"] == "WRONG"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["api", "--port", "0"], "Uvicorn running on"),
        (["worker", "control"], " ready."),
        (["worker", "beat"], "beat: Starting"),
    ],
    ids=["api", "control", "beat"],
)
def test_each_process_can_run_alone_and_ends_when_told_to(settings: Settings, arguments: list[str], word: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments], env={**os.environ, "PYTHONPATH": os.getcwd()},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        dead_line = threading.Timer(60, process.kill)
        dead_line.start()
        assert process.stderr is not None
        line = next((line for line in process.stderr if word in line), "")
        assert line, "it ended before it was ready"
        if arguments[0] == "api":
            address = line.split(word)[1].split()[0].strip('"')
            assert httpx.get(f"{address}/readyz", trust_env=False).json()["ready"] is True
        process.terminate()
        process.stderr.read()
        assert process.wait() in {0, -15}
        dead_line.cancel()
