"""The paper's tables and figures on a small real model: GRAIL and every method that it is measured against.

    python bench/paper.py list                 the queue: what is done, what is left, and about how long it will take
    python bench/paper.py run [--minutes 60]   go on with it; may be stopped at any time, what is finished is kept;
                                               two processes of one thread each do more than one of two threads
    python bench/paper.py tables               every table and figure again from the stored raw results (docs/paper)

SmolLM2-135M with an adapter of rank 16 on all linear layers, taught the privacy people of KnowUnDo and 25 invented
novels; and again LUME. Raw results lie in docs/paper/raw, one file a run, with the commit that made them. Data that is
absent is said so, and what needs it is left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from provenance import commit
from reproduction.data import DataAbsent
from reproduction.locks import held
from reproduction.results import of_grid, path_of, read, reference_key, write
from reproduction.rows import Task, learning_rate, queue
from reproduction.runs import Bench, reference, run

from grail.report import environment

GUESS_SECONDS = 300.0
"""What a run is taken to last before any has been timed."""


def main() -> int:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what is done and what is left")
    going = commands.add_parser("run", help="go on with the queue")
    going.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many minutes")
    going.add_argument("--threads", type=int, default=0, help="threads of this process; several may share the queue")
    going.add_argument("--only", default="", help="only runs whose name holds this")
    commands.add_parser("tables", help="tables and figures from the raw results")
    asked = parser.parse_args()
    try:
        return {"list": show, "run": go_on, "tables": tabulate}[asked.command](asked)
    except DataAbsent as absent:
        print(f"skipped: {absent}")
        return 0


def left() -> list[Task]:
    """Runs that are still to be done."""
    return [task for task in queue() if not path_of(task.key).is_file()]


def seconds_each() -> float:
    """Median seconds of the finished runs."""
    times = [sum(read(task.key)["seconds"].values()) for task in queue() if path_of(task.key).is_file()]
    return median(times) if times else GUESS_SECONDS


def show(_: argparse.Namespace) -> int:
    """Print the queue."""
    for task in queue():
        print("done" if path_of(task.key).is_file() else "left", task.key)
    print(f"{len(left())} of {len(queue())} left, about {len(left()) * seconds_each() / 60:.0f} min")
    return 0


def go_on(asked: argparse.Namespace) -> int:
    """Do run after run until the queue or the time is at its end."""
    import torch

    if asked.threads:
        torch.set_num_threads(asked.threads)
    start, benches = time.monotonic(), {}
    while time.monotonic() - start < 60 * asked.minutes:
        task = next((task for task in left() if asked.only in task.key and done(task, benches)), None)
        if task is None:
            break
    print(f"{len(left())} of {len(queue())} left, about {len(left()) * seconds_each() / 60:.0f} min")
    return 0


def done(task: Task, benches: dict[tuple[str, str], Bench]) -> bool:
    """Do one run. False when another process has it, or when it waits for the grid that another one is at."""
    try:
        rate = learning_rate(task, of_grid)
    except KeyError:
        return False
    with held(task.key, wait=False) as mine:
        if not mine or path_of(task.key).is_file():
            return False
        where = (task.corpus, task.half)
        if where not in benches:
            benches.clear()
            benches[where] = Bench.open(*where)
        bench, key = benches[where], reference_key(*where)
        with held(key, wait=True):
            if not path_of(key).is_file():
                print(f"{key} ...", flush=True)
                write(key, {"rows": reference(bench, free=task.half != "development"), **stamp(bench)})
        print(f"{task.key} ({len(left())} left, about {len(left()) * seconds_each() / 60:.0f} min) ...", flush=True)
        result = run(bench, task, rate, read(key)["rows"]["adapter off"])
        write(task.key, {"task": task.key, "row": task.row, "seed": task.seed, **result, **stamp(bench)})
        chs, hs = (of_grid(task, name) for name in ("chs", "hs"))
        print(f"  HS {hs:.1f}, cHS {chs:.1f}, {sum(result['seconds'].values()):.0f} s", flush=True)
    return True


def stamp(bench: Bench) -> dict[str, object]:
    """Commit and environment of a result."""
    return {"commit": commit(), "environment": environment(bench.model)}


def tabulate(_: argparse.Namespace) -> int:
    """Write docs/paper again."""
    from reproduction.tables import write_all

    with told("tables and figures"):
        write_all()
    return 0


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say what is done and how long it took."""
    start = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
