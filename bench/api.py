"""What the API adds to a bare FastAPI route: both sides in one run, by turns, on the same Postgres and machine.

    python bench/api.py                 about two minutes
    python bench/api.py --seconds 5 --rounds 10
    python bench/api.py --write         into docs/api-load.md

`POST /v1/requests` (three forget items, signed in, audited) against a route that does one INSERT and commit; `GET` of
a request against a route that does one SELECT. The bare side twice: as FastAPI's tutorial has it, and without
SQLAlchemy and threads (`load/bare.py`). Rates of closed loops over kept-alive connections; ratios of neighbours,
with n and 95 % intervals (Student's t of their logarithms). The clients share the machine with the servers.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

from load import stage
from load.client import Task
from provenance import commit

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "bench" / "load" / "client.py"
PAGE = ROOT / "docs" / "api-load.md"
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Of 1, 2, ... degrees of freedom."""
WANTED = {"post": 0.60, "get": 0.70}
KEPT = 50


class Bench:
    """The sides, and the calls that were made so far (each is another one)."""

    def __init__(self, on: stage.Stage, connections: int, clients: int) -> None:
        self.on, self.connections, self.clients, self.first = on, connections, clients, 0
        self.calls_made = 0
        """Of our side."""
        self.sides: dict[str, tuple[int, str, str | None]] = {
            "bare": (on.bare_port, "/rows", None), "lean": (on.bare_port, "/lean", None),
            "ours": (on.port, "/v1/requests", on.key),
        }  # fmt: skip

    def calls(self, side: str, kind: str) -> list[str]:
        """Whole HTTP requests."""
        port, path, key = self.sides[side]
        if kind == "post":
            return [stage.post(path, key, stage.body())]
        return [stage.get(f"{path}/{made}", key) for made in self._made(port, path, key)]

    def _made(self, port: int, path: str, key: str | None) -> list[str]:
        """Rows to read."""
        ids = []
        for _ in range(KEPT):
            self.first += 1
            content = stage.body().replace("%NUMBER%", str(self.first).zfill(12)).encode()
            headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
            call = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=content, headers=headers)
            with urllib.request.urlopen(call, timeout=30) as answer:  # noqa: S310 - our own address
                ids.append(str(json.load(answer)["id"]))
        return ids

    def run(self, side: str, calls: list[str], seconds: float, rate: float | None = None) -> dict[str, Any]:
        """What all client processes saw together."""
        started = []
        for number in range(self.clients):
            self.first += 1_000_000
            task = Task(
                self.sides[side][0], seconds, self.connections // self.clients, calls, self.first,
                rate=None if rate is None else rate / self.clients, seed=number,
            )  # fmt: skip
            process = subprocess.Popen([sys.executable, str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(task)).encode())
            process.stdin.close()
            started.append(process)
        seen = [json.loads(process.stdout.read()) for process in started if process.stdout is not None]
        for process in started:
            process.wait()
        times = sorted(second for one in seen for second in one["seconds"]) or [math.nan]
        statuses: dict[str, int] = {}
        for one in seen:
            for status, count in one["statuses"].items():
                statuses[status] = statuses.get(status, 0) + count
        if side == "ours":
            self.calls_made += len(times)
        return {
            "rate": len(times) / max(one["took"] for one in seen), "statuses": statuses,
            "median": times[len(times) // 2], "p99": times[int(len(times) * 0.99)],
            "broken": sum(one["broken"] for one in seen), "bare_503": sum(one["without_retry_after"] for one in seen),
        }  # fmt: skip


def resident_mb(pids: list[int]) -> int:
    """Memory of processes, without what they share with files being counted apart. 0 where there is no /proc."""
    statm = [Path(f"/proc/{pid}/statm") for pid in pids]
    pages = sum(int(one.read_text(encoding="ascii").split()[1]) for one in statm if one.is_file())
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Mean ratio of pairs and its 95 % interval."""
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    middle = statistics.fmean(logs)
    if len(logs) < 2:
        return math.exp(middle), 0.0, math.inf
    degrees = len(logs) - 1
    half = (T95[degrees - 1] if degrees <= len(T95) else 1.96) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def compare(bench: Bench, kind: str, rounds: int, seconds: float) -> tuple[list[str], float]:
    """Rows of the table, and our median rate."""
    calls = {side: bench.calls(side, kind) for side in bench.sides}
    rates: dict[str, list[float]] = {side: [] for side in bench.sides}
    for side in bench.sides:
        bench.run(side, calls[side], 2.0)
    for number in range(rounds):
        for side in list(bench.sides)[:: 1 if number % 2 else -1]:
            seen = bench.run(side, calls[side], seconds)
            assert not seen["broken"] and all(status[0] == "2" for status in seen["statuses"]), seen["statuses"]
            rates[side].append(seen["rate"])
    rows = []
    for side in ("bare", "lean"):
        middle, low, high = ratio(rates["ours"], rates[side])
        wanted = f"{WANTED[kind]:.2f}" if side == "bare" else ""
        medians = [f"{statistics.median(rates[one]):.0f}" for one in ("ours", side)]
        interval = f"{middle:.2f} ({low:.2f}..{high:.2f})"
        rows.append(f"| {kind} / {side} | {' | '.join(medians)} | {interval} | {rounds} | {wanted} |")
    return rows, statistics.median(rates["ours"])


def loads(bench: Bench, saturation: float, seconds: float) -> list[str]:
    """Open loops of POST at half and at twice the saturation."""
    calls, rows = bench.calls("ours", "post"), []
    for times in (0.5, 2.0):
        seen = bench.run("ours", calls, seconds, rate=saturation * times)
        tail = seen["p99"] / seen["median"]
        rows.append(
            f"| {times:g} x saturation | {seen['median'] * 1000:.0f} | {seen['p99'] * 1000:.0f} | {tail:.1f} | "
            f"{seen['statuses']} | {seen['broken']} | {seen['bare_503']} |"
        )
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--workers", type=int, default=1, help="uvicorn workers of each side")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="grail-load-"))
    directory.chmod(0o755)
    try:
        with stage.staged(directory, asked.workers) as on:
            bench = Bench(on, asked.connections, asked.clients)
            bench.run("ours", bench.calls("ours", "post"), 2.0)
            first, memory = bench.calls_made, [resident_mb(on.pids["ours"])]
            posts, saturation = compare(bench, "post", asked.rounds, asked.seconds)
            gets, _ = compare(bench, "get", asked.rounds, asked.seconds)
            open_loops = loads(bench, saturation, asked.seconds * 2)
            memory.append(resident_mb(on.pids["ours"]))
            between = bench.calls_made - first
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    page = "\n".join([
        "# The API under load", "",
        f"`{' '.join(['python bench/api.py', *sys.argv[1:]])}`, commit {commit()}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores with a load of {os.getloadavg()[2]:.1f} in the last quarter of an hour, clients and "
        "servers on the same machine.", "",
        "| | ours, 1/s | other, 1/s | ratio (95 % interval) | n | wanted |", "|---|---|---|---|---|---|", *posts, *gets,
        "",
        "Calls of `POST /v1/requests` that come whether or not others are answered:", "",
        "| | median, ms | p99, ms | p99 / median | answers | no answer | 429 or 503 without Retry-After |",
        "|---|---|---|---|---|---|---|", *open_loops, "",
        f"Memory of our server after its first two seconds of calls: {memory[0]} MB; {between:,} calls later: "
        f"{memory[1]} MB.",
        "",
    ])  # fmt: skip
    print(page)
    if asked.write:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
