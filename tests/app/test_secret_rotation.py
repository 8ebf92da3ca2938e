"""The master secret is changed under running APIs, one process at a time: repeated calls are known throughout."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import httpx

from tests.app.service import Floor
from tests.fixtures.served import question

SERVE = "from cli.main import main; main()"
OLD, NEW = "the old secret of the test is long enough for it", "the new secret of the test is long enough for it"


@contextmanager
def api(secret: str) -> Iterator[str]:
    """A real process with that secret."""
    environment = {**os.environ, "GRAIL_MASTER_SECRET": secret, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, "api", "--port", "0"], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        deadline = threading.Timer(120, process.kill)
        deadline.start()
        assert process.stderr is not None
        line = next((line for line in process.stderr if "Uvicorn running on" in line), "")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield line.split("running on ")[1].split()[0].strip('"')
        finally:
            process.terminate()
            process.wait()
            deadline.cancel()


def test_a_repeated_call_is_known_at_each_step_of_the_change(floor: Floor) -> None:
    """Two of the four processes are at work at each step: the one before it and the one after."""
    secrets = (OLD, f"{OLD},{NEW}", f"{NEW},{OLD}", NEW)
    with ExitStack() as undo, ThreadPoolExecutor() as pool:
        running = list(pool.map(lambda secret: undo.enter_context(api(secret)), secrets))
        for number, (first, second) in enumerate(pairwise(running), 1):
            begun = [post(floor, where, n) for n, where in enumerate((first, second), 10 * number)]
            again = [post(floor, where, n) for n, where in enumerate((second, first), 10 * number)]
            assert [answer.status_code for answer in begun] == [202, 202]
            if second == running[-1]:
                assert again[1].json()["id"] == begun[1].json()["id"], "the old process knows what the new one signs"
            else:
                assert [a.json()["id"] for a in again] == [a.json()["id"] for a in begun], number


def post(floor: Floor, where: str, number: int) -> Any:
    headers = {**floor.caller.header("requester"), "Idempotency-Key": f"call-{number}"}
    body = {"served_model": "people", "domain": "privacy", "forget": [question(number)]}
    return httpx.post(f"{where}/v1/requests", json=body, headers=headers, timeout=60, trust_env=False)
