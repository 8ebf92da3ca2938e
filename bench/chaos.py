"""Random faults from a seed, against the whole service with real processes, and what must be true afterwards.

    python bench/chaos.py --schedules 500 --seed 1           from where the results of this seed end
    python bench/chaos.py --schedules 500 --seed 1 --from 0  from the beginning
    python bench/chaos.py --seed 1 --only 137                one schedule again
    python bench/chaos.py --seed 1 --minutes 30              as many as fit
    python bench/chaos.py --seed 1 --deeds                   people change their minds meanwhile
    python bench/chaos.py --named                            every named fault of tests/faults at every stage

With `--deeds` people also withdraw, hold and release, extend and refuse at random moments, and of half the models an
officer approves every candidate: schedules of form 2. Their lines have `form` and stand in the same file as those of
form 1, which have none. The faults of a number are the same in both forms.

A schedule is a served model of its own, callers who do not give up, and one to three faults, each at a point of the
pipeline or at a moment. Then everything is mended as an operator would (thawed, in time, with room; breakers
closed), the service comes to rest, and tests/faults/invariants.py looks. Which faults and when follows from seed and
number; how the processes interleave does not, so a schedule that showed something may have to be run more than once.

Results are appended to docs/chaos.jsonl, a line a schedule. On a violation the schedule is printed, logs and data are
kept, and the run ends with 1 (not with --keep-going). With root's rights `adapters` and `artifacts` lie on small file
systems of their own, in a mount namespace of this process; without them schedules with a full disk are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from own_secrets import set_secrets  # noqa: E402
from provenance import commit  # noqa: E402

set_secrets()

from tests.faults import deeds, invariants  # noqa: E402  the path is set above
from tests.faults.callers import Load  # noqa: E402
from tests.faults.deeds import Deed, Officer, People  # noqa: E402
from tests.faults.ground import LEASE_SECONDS, POINTS, Ground, may_mount  # noqa: E402

RESULTS = ROOT / "docs" / "chaos.jsonl"
PROCESSES = ("gpu", "gpu-2", "control", "api", "beat", "postgres", "valkey")
COMMITS = ("", "grail", "run_job", "publish_job", "plan_batches")
"""Whose: a word of the connection's application name; `grail` alone is the API's."""
WEIGHTS = {"kill": 8, "freeze": 6, "flush": 1, "twice": 1, "cut": 3, "clock": 2, "disk": 2}
A_GROUND_LASTS = 40
"""Schedules on one stack: then logs and tables are fresh again."""
PATIENCE_SECONDS = 240.0
"""For the service to come to rest once everything is mended."""
INSIDE = "GRAIL_CHAOS_INSIDE"


@dataclass
class Fault:
    """One fault: what, to whom, at which point of the pipeline or how many seconds after the beginning."""

    kind: str
    target: str = ""
    point: str | None = None
    after_seconds: float = 0.0
    seconds: float = 0.0
    struck: dict[str, Any] = field(default_factory=dict)


@dataclass
class Schedule:
    """What one number of a seed means."""

    seed: int
    number: int
    callers: int
    faults: list[Fault]
    form: int = 1
    deeds: list[Deed] = field(default_factory=list)
    approval: bool = False


def draw(seed: int, number: int, *, with_disk: bool = True, form: int = 1) -> Schedule:
    """The schedule of that number; what form 2 adds is drawn apart, so that form 1 stays what it was."""
    random = Random(f"{seed}:{number}")  # noqa: S311  a schedule, not a secret
    kinds = [kind for kind in WEIGHTS if with_disk or kind != "disk"]
    drawn = random.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=random.randint(1, 3))
    faults = [_fault(random, kind) for kind in drawn]
    schedule = Schedule(seed, number, random.randint(2, 5), faults, form)
    if form == 2:
        more = Random(f"{seed}:{number}:deeds")  # noqa: S311
        schedule.deeds = [deeds.draw(more) for _ in range(schedule.callers)]
        schedule.approval = more.random() < 0.5
    return schedule


def _fault(random: Random, kind: str) -> Fault:
    fault = Fault(kind, after_seconds=round(random.uniform(0, 6), 2))
    if random.random() < 0.6:
        fault.point = random.choice(POINTS)
    match kind:
        case "kill":
            fault.target = random.choice(PROCESSES)
        case "freeze":
            fault.target = random.choice(PROCESSES)
            fault.seconds = round(random.uniform(0.2, 2.5 * LEASE_SECONDS), 2)
        case "cut":
            fault.target = f"{random.choice(('before', 'after'))} {random.choice(COMMITS)}".strip()
        case "clock":
            fault.target = random.choice(("gpu", "gpu-2", "control", "beat"))
            fault.seconds = random.choice((-1, 1)) * random.choice((2.0, 60.0, 3600.0, 86_400.0))
        case "disk":
            fault.seconds = round(random.uniform(0.5, 5), 2)
    return fault


def strike(ground: Ground, fault: Fault) -> list[Callable[[], Any]]:
    """Do it; what has to be waited for afterwards."""
    match fault.kind:
        case "kill":
            ground.kill(fault.target)
        case "freeze":
            return [ground.freeze_for(fault.target, fault.seconds).join]
        case "flush":
            ground.flush()
        case "twice":
            ground.ring_again()
        case "cut":
            when, _, application = fault.target.partition(" ")
            ground.cutter.arm(when, application)
        case "clock":
            ground.set_clock(fault.target, fault.seconds)
        case "disk":
            ground.fill_disk()
            time.sleep(fault.seconds)
            ground.free_disk()
    return []


def run(ground: Ground, schedule: Schedule) -> dict[str, Any]:
    """One schedule from its first caller to the verdict."""
    began, model = time.monotonic(), f"m{schedule.number}-{int(time.time())}"
    ground.register(model, approval=schedule.approval)
    people = People(ground.stack.base_url, {role: ground.key(role) for role in ("requester", "operator", "officer")})
    load = Load(ground.stack.base_url, ground.key("requester"), model, people=people)
    load.begin(schedule.callers, 1.5, Random(schedule.number), schedule.deeds)  # noqa: S311
    with ExitStack() as officer:
        if schedule.approval:
            officer.enter_context(Officer(people, model, 0.2))
        cuts = _until_rest(ground, schedule, load, began)
        open_still = ground.until_ended(model, PATIENCE_SECONDS)
    ground.sweep_files()
    broken = [f"{what} at the end" for what in open_still] + load.strange + people.strange
    broken += [f"{name} was refused to the end" for name in set(load.tried) - set(load.accepted)]
    if not open_still:
        broken += invariants.broken(ground, model, load.accepted, load.tried, load.deeds)
    jobs = ground.rows(
        "SELECT count(*) AS n FROM job j JOIN served_model m ON m.id = j.served_model_id WHERE m.name = %s", model
    )
    form = {"form": 2, "approval": schedule.approval, "deeds": deeds.told(load.deeds.items())}
    return {
        **(form if schedule.form == 2 else {}),
        "commit": commit(), "seed": schedule.seed, "schedule": schedule.number, "model": model,
        "faults": [{k: v for k, v in asdict(fault).items() if v not in ("", None, 0.0)} for fault in schedule.faults],
        "cuts": cuts, "requests": len(load.tried), "accepted": len(load.accepted),
        "repeated": load.repeated, "jobs": jobs[0]["n"], "outcome": "broken" if broken else "held", "broken": broken,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _until_rest(ground: Ground, schedule: Schedule, load: Load, began: float) -> list[tuple[str, str]]:
    """The faults, until everybody has an answer and all is mended; which commits were cut."""
    model, cuts = load.model, len(ground.cutter.cuts)
    later: list[Callable[[], Any]] = []
    for fault in sorted(schedule.faults, key=lambda one: one.after_seconds):
        _await_moment(ground, model, fault, began)
        fault.struck = {"at": ground.point(model), "seconds": round(time.monotonic() - began, 2)}
        later += strike(ground, fault)
    for wait in later:
        wait()
    load.end()
    ground.heal()
    return ground.cutter.cuts[cuts:]


def _await_moment(ground: Ground, model: str, fault: Fault, began: float) -> None:
    if fault.point is None:
        time.sleep(max(0.0, fault.after_seconds - (time.monotonic() - began)))
        return
    try:
        ground.until_point(model, fault.point, seconds=20)
    except AssertionError:  # an earlier fault holds the job up: then now
        return


@contextmanager
def grounds(models: Path) -> Iterator[Callable[..., Ground]]:
    """A function that gives the ground to run on: the same one for a while, a new one when asked to."""
    current: list[tuple[Ground, Path]] = []

    def leave(*, keep: bool = False) -> None:
        for ground, place in current:
            ground.__exit__(None, None, None)
            if keep:
                print(f"logs and data are kept in {place}", flush=True)
            else:
                shutil.rmtree(place, ignore_errors=True)
        current.clear()

    def give(*, fresh: bool = False, keep: bool = False) -> Ground:
        if fresh or keep:
            leave(keep=keep)
        if not current:
            place = Path(tempfile.mkdtemp(prefix="grail-chaos-"))
            place.chmod(0o755)
            current.append((Ground(models, place, small_disk=may_mount()).__enter__(), place))
        return current[0][0]

    give.leave = leave  # type: ignore[attr-defined]
    try:
        yield give
    finally:
        leave()


def taught_model(place: Path) -> Path:
    """A tiny model with an adapter that knows a few facts."""
    import torch

    from tests.fixtures.facts import taught_adapter
    from tests.fixtures.tiny_model import tiny_base

    torch.set_num_threads(1)
    taught_adapter(tiny_base(place / "base"), place / "adapter", steps=40)
    return place


def results(seed: int, form: int) -> list[dict[str, Any]]:
    """What is known of a seed, of schedules of that form."""
    if not RESULTS.is_file():
        return []
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines() if line]
    return [row for row in rows if row["seed"] == seed and row.get("form", 1) == form]


def summary(rows: list[dict[str, Any]]) -> None:
    """What the rows say together."""
    latest = {row["schedule"]: row for row in rows}.values()
    kinds = Counter(
        " ".join(filter(None, (fault["kind"], fault.get("target", "").split(" ")[0] if fault["kind"] != "cut" else "")))
        for row in latest
        for fault in row["faults"]
    )
    broken = sorted(row["schedule"] for row in latest if row["outcome"] != "held")
    print(f"{len(latest)} schedules, {sum(len(row['faults']) for row in latest)} faults, "
          f"{sum(row['accepted'] for row in latest)} requests accepted, {sum(row['repeated'] for row in latest)} calls "
          f"repeated, {sum(row['jobs'] for row in latest)} jobs; {len(broken)} broken {broken or ''}")  # fmt: skip
    for kind, count in kinds.most_common():
        print(f"  {count:5d}  {kind}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=500, help="numbers 0 to this less one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="first", type=int, help="first number; else after the last known")
    parser.add_argument("--only", type=int, help="this number alone, without a line in the results")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation, on a fresh stack")
    parser.add_argument("--deeds", dest="form", action="store_const", const=2, default=1, help="people decide, too")
    parser.add_argument("--named", action="store_true", help="tests/faults with all processes and stages instead")
    return parser.parse_args()


def main() -> int:
    """Run what is asked for; 1 when something was broken."""
    asked = arguments()
    if may_mount() and INSIDE not in os.environ:  # mounts of ours end with us, however that is
        os.environ[INSIDE] = "1"
        os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])  # noqa: S606, S607
    if asked.named:
        os.environ["GRAIL_FAULTS"] = "all"
        os.execv(sys.executable, [sys.executable, "-m", "pytest", str(ROOT / "tests" / "faults"), "-v"])  # noqa: S606
    known = results(asked.seed, asked.form)
    first = asked.first if asked.first is not None else max((row["schedule"] + 1 for row in known), default=0)
    numbers = [asked.only] if asked.only is not None else range(first, asked.schedules)
    ends, bad = time.monotonic() + asked.minutes * 60, 0
    with tempfile.TemporaryDirectory() as place, grounds(taught_model(Path(place))) as give:
        Path(place).chmod(0o755)
        for done, number in enumerate(numbers):
            if time.monotonic() > ends:
                break
            ground = give(fresh=done % A_GROUND_LASTS == 0)
            row = run(ground, draw(asked.seed, number, with_disk=ground.small_disk, form=asked.form))
            faults = (f"{f['kind']} {f.get('target', '')} at {f['struck']['at']}" for f in row["faults"])
            print(f"{number:4d} {row['outcome']:6s} {row['seconds']:6.1f} s  {', '.join(faults)}", flush=True)
            if asked.only is None:
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row, sort_keys=True) + "\n")
            if row["outcome"] != "held":
                bad += 1
                print(json.dumps(row, indent=2), flush=True)
                give.leave(keep=True)  # type: ignore[attr-defined]
                if not asked.keep_going:
                    break
    summary(results(asked.seed, asked.form))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
