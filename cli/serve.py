"""`grail serve`, `grail worker` and `grail api`: the service as one command, or as the processes of containers."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.secret import masters
from cli.api import serve_api
from cli.failures import CommandFailed
from cli.remote import LOOPBACK, data_directory
from cli.show import hint
from cli.stack import Stack, celery, worker

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Kind(StrEnum):
    """The processes beside the API."""

    GPU = "gpu"
    CONTROL = "control"
    BEAT = "beat"


def serve(
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Run a Postgres and a Valkey of our own below the data directory.")
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data_dir: Annotated[Path | None, typer.Option(envvar="GRAIL_DATA_DIR", help="Data and logs; .grail here.")] = None,
    gpu_workers: Annotated[int, typer.Option(min=0, help="Jobs at the same time; 0 where others compute.")] = 1,
) -> None:
    """Run the service: API, workers, scheduler and, with --embedded, its servers. Ctrl-C stops all of it."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    stack = Stack(
        model_roots(), data_dir=data_dir or data_directory(), host=host, port=port, embedded=embedded,
        gpu_workers=gpu_workers,
    )  # fmt: skip
    stopped_by_signals()
    try:
        hint("Starting ...")
        with stack:
            _greet(stack)
            threading.Event().wait()
    except KeyboardInterrupt:
        hint("Stopped.")


def model_roots() -> dict[str, str]:
    """Models may come from below this directory, the data and the cache of converted models, unless said otherwise."""
    import json

    from grail.model.bundled import cache_directory

    roots = [str(path.absolute()) for path in (Path.cwd(), data_directory(), cache_directory())]
    return {"GRAIL_MODEL_ROOTS": os.environ.get("GRAIL_MODEL_ROOTS") or json.dumps(roots)}


def stopped_by_signals() -> None:
    """The first signal raises KeyboardInterrupt; later ones are ignored: stopping is under way, and bounded."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in STOPPING:
        signal.signal(number, stop)


def _greet(stack: Stack) -> None:
    for note in stack.notes:
        hint(f"Note: {note}")
    hint(f"GRAIL Server listens on {stack.base_url}; its description (with a key) at {stack.base_url}/docs")
    hint(f"  data  {stack.data_dir}\n  logs  {stack.logs}\n  stop  Ctrl-C, or kill {os.getpid()}")
    if stack.host not in LOOPBACK:
        hint("  It speaks plain HTTP: put a reverse proxy with TLS in front of it.")
    usual = stack.data_dir == Path(".grail").absolute()
    place = "" if usual or stack.services is None else f"GRAIL_DATA_DIR={stack.data_dir} "
    hint(f"Make a key in another terminal: {place}grail keys create YOUR-NAME --role admin")


def run_worker(
    kind: Annotated[Kind, typer.Argument(help="gpu computes jobs; control plans, publishes, sweeps; beat rings.")],
    concurrency: Annotated[int, typer.Option(min=1, help="Threads of a control worker.")] = 4,
) -> None:
    """Become one of the processes beside the API, for containers and service supervisors."""
    name = f"{kind}-{os.getpid()}"
    if kind is Kind.BEAT:
        command = celery("beat")
    elif kind is Kind.GPU:
        _check_placement()
        command = worker(name, "gpu", "solo", 1)
    else:
        masters()
        command = worker(name, "control", "threads", concurrency)
    data = str(data_directory().absolute())
    os.environ.update({"GRAIL_DATA_DIR": data, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    os.execv(sys.executable, [sys.executable, "-P", *command])  # noqa: S606  an argument list of our own making


def _check_placement() -> None:
    """Raises CommandFailed when the environment places the base where this machine can not, before any job does."""
    from grail.model.quantised import QuantisationMissing
    from worker.device import WrongPlacement, placement

    try:
        placement()
    except (QuantisationMissing, WrongPlacement) as error:
        raise CommandFailed(str(error)) from None


def run_api(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Run the API alone, for containers and service supervisors."""
    masters()
    serve_api(host=host, port=port)
