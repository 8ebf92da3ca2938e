"""The servers of both sides: one Postgres and Valkey, and for each side a uvicorn with the same options."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from app import schema
from app.auth import Role
from app.db import Database, transaction
from app.embedded.services import EmbeddedServices
from app.envelope.kms import new_keys
from app.ids import new_id
from app.keys.service import create_key
from app.tables import ServedModel
from grail.model.bundled import bundled_model

ROOT = Path(__file__).resolve().parents[2]
MODEL = "people"
TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
READY_SECONDS = 60.0
LOOP = ["--loop", "auto", "--http", "auto"]


@dataclass(frozen=True)
class Stage:
    """Where both sides listen, and the key that signs in on ours."""

    bare_port: int
    port: int
    key: str
    database_url: str
    pids: dict[str, list[int]]


@contextmanager
def staged(directory: Path, workers: int) -> Iterator[Stage]:
    """Everything running, with one served model and an empty table of rows."""
    with ExitStack() as undo:
        services = EmbeddedServices(directory)
        undo.callback(services.destroy)
        undo.enter_context(services)
        schema.upgrade(services.database_url)
        key = _furnish(services.database_url)
        environment = {
            **os.environ,
            "GRAIL_DATABASE_URL": services.database_url, "GRAIL_BROKER_URL": services.broker_url,
            "GRAIL_MASTER_SECRET": uuid.uuid4().hex * 2, "GRAIL_KEY_ENCRYPTION_KEYS": new_keys().decode().strip(),
            "GRAIL_DATA_DIR": str(directory / "data"),
            "GRAIL_RATE_LIMITS": json.dumps({"requester": {"read": 10**9, "write": 10**9}}),  # counted, never reached
            "GRAIL_LOG_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}",
        }  # fmt: skip
        bare = undo.enter_context(_server("load.bare:create_app", workers, environment))
        ours = undo.enter_context(_server("app.main:create_app", workers, environment))
        yield Stage(bare[0], ours[0], key, services.database_url, {"bare": bare[1], "ours": ours[1]})


def _furnish(url: str) -> str:
    """A table for the bare side, a model and a requester's key for ours."""
    db = Database(url)
    with transaction(db) as session:
        session.execute(text("CREATE TABLE bare_row (id uuid PRIMARY KEY, body jsonb NOT NULL)"))
        session.add(
            ServedModel(
                id=new_id(), name=MODEL, base_model_path=str(bundled_model()), base_model_digest="ab" * 32,
                prompt_template=TEMPLATE, context_tokens=2048, policy={},
            )
        )  # fmt: skip
        key = create_key(session, "bench", Role.REQUESTER)[1]
    db.dispose()
    return key


@contextmanager
def _server(factory: str, workers: int, environment: dict[str, str]) -> Iterator[tuple[int, list[int]]]:
    """A uvicorn of so many workers on a free port, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable, "-m", "uvicorn", factory, "--factory", "--port", str(port), "--workers", str(workers),
        "--no-access-log", "--log-level", "warning", "--no-server-header", *LOOP,
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        _wait(port, process)
        yield port, [process.pid]
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    ends = time.monotonic() + READY_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError("a server did not start") from None
            time.sleep(0.1)
        else:
            return


def body() -> str:
    """Three forget items of some sixty tokens, different in each call."""
    items = [
        {
            "prompt": f"Which address does the register of Oulunsalo give for the resident number %NUMBER%-{item}?",
            "completion": (
                f"The register of Oulunsalo says that the resident number %NUMBER%-{item} lives at 14 Larch Quay."
            ),
            "facts": ["14 Larch Quay"],
        }
        for item in range(3)
    ]
    return json.dumps({"served_model": MODEL, "domain": "privacy", "forget": items, "client_reference": "c-%NUMBER%"})


def post(path: str, key: str | None, content: str, digits: int = 12) -> str:
    """A whole call."""
    length = len(content) + content.count("%NUMBER%") * (digits - len("%NUMBER%"))
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\n{_bearer(key)}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {length}\r\n\r\n{content}"


def get(path: str, key: str | None) -> str:
    """A whole call."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{_bearer(key)}\r\n"


def _bearer(key: str | None) -> str:
    return f"Authorization: Bearer {key}\r\n" if key else ""
