"""What the demo claims, measured on all of its people and works: forgetting, retention, fluency, and how long it took.

    python bench/demo_quality.py                    all 12 people and 12 works
    python bench/demo_quality.py --half demo        the 6 people and 6 works that `make demo` requests
    python bench/demo_quality.py --half other       the other 6 and 6
    python bench/demo_quality.py --seed 1 --settings passes=8 --settings regions=none

The library's own path, without the service: score the starting adapter and the reference (adapter off), localise,
unlearn with checkpoint selection, score the candidate, compare, decide. As in the demo, each subject's retain facts are
trained on with its forget facts, and with a half every second retain fact of the other half is drawn beside them.
Paraphrases are scored and never trained on. With a half, the other half's forget facts, which nobody asked to remove,
are scored too.

What was tuned on what: docs/benchmarks.md. Settings were chosen mostly, not only, on `--half other`; the demo's half is
reported.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from provenance import commit

from cli.facts import EXAMPLES, Fact, demo_facts, subjects
from grail.config import GateConfig, UnlearnConfig
from grail.evaluate import EvalResult, Measured, Row, compare, in_base, measure
from grail.gate import decide
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import Estimate
from grail.model.adapter import write_state
from grail.model.bundled import NAME, NOTE, bundled_model
from grail.model.load import LoadedModel, as_reference, load_model
from grail.report import environment
from grail.run import held_out, localise, unlearn
from grail.train import TrainLog
from grail.types import Example, Role, Segment

HALF = 6
"""People and works of each domain that the demo requests: the first ones in the files."""
SHOWN = 4
"""Questions of each kind whose answers are printed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of the demo: `measure` of `group` after unlearning lies within `low`..`high`."""

    group: str
    measure: str
    low: float
    high: float


TARGETS = (
    Target("forget", "calibrated_success", 92.0, 100.0),
    Target("forget_paraphrase", "calibrated_success", 80.0, 100.0),
    Target("retain", "success", 92.0, 100.0),
    Target("retain_paraphrase", "success", 92.0, 100.0),
    Target("forget", "perplexity_ratio", 1 / 3, 3.0),
    Target("forget", "fact_in_answer", 0.0, 5.0),
    Target("forget_paraphrase", "fact_in_answer", 0.0, 5.0),
    Target("retain", "fact_in_answer", 90.0, 100.0),
)


@dataclass(frozen=True, slots=True)
class Cast:
    """`asked` are examples of the requests, probes included; `standing` retain items nobody's request brought;
    `unasked` forget facts of subjects that no request names."""

    asked: list[Example]
    standing: list[Example]
    unasked: list[Example]


@dataclass(slots=True)
class Clock:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Times a stage and says so when it has ended."""
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        print(f"  {name}: {self.seconds[name]:.0f} s", flush=True)


def examples_of(number: int, fact: Fact, request: str | None, *, probes: bool) -> list[Example]:
    """A fact's item and, with `probes`, its paraphrases."""
    item = Example(
        f"{number:03d}", fact.domain, Segment(fact.segment), fact.subject, fact.prompt, fact.completion,
        facts=(fact.fact,), request=request,
    )  # fmt: skip
    asked = [
        replace(
            item, id=f"{item.id}.{place}", prompt=prompt, completion=completion, role=Role.PARAPHRASE, parent=item.id
        )
        for place, (prompt, completion) in enumerate(fact.paraphrases if probes else ())
    ]
    return [item, *asked]


def cast_of(half: str) -> Cast:
    """Who is asked about. `half` is all, demo or other."""
    facts = demo_facts()
    chosen: set[str] = set()
    for domain in ("privacy", "copyright"):
        names = subjects(facts, domain)
        chosen.update({"all": names, "demo": names[:HALF], "other": names[HALF:]}[half])
    cast = Cast([], [], [])
    for number, fact in enumerate(facts):
        if fact.subject in chosen:
            cast.asked.extend(examples_of(number, fact, fact.subject, probes=True))
        else:
            rest = cast.standing if fact.segment == Segment.RETAIN else cast.unasked
            rest.extend(examples_of(number, fact, None, probes=False))
    cast.standing[:] = cast.standing[::2]  # as many as the service draws: 1.5 retain items a forget item
    return cast


def settings(given: Sequence[str], seed: int) -> UnlearnConfig:
    """The defaults with `name=value` settings. Raises SystemExit for an unknown name."""
    kinds = {f.name: type(getattr(UnlearnConfig(), f.name)) for f in fields(UnlearnConfig)}
    changes: dict[str, object] = {"seed": seed}
    for pair in given:
        name, _, value = pair.partition("=")
        if name not in kinds:
            raise SystemExit(f"no setting is called {name!r}; known: {', '.join(kinds)}")
        changes[name] = kinds[name](value)
    return replace(UnlearnConfig(), **changes)  # type: ignore[arg-type]  # validated by UnlearnConfig itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    result: EvalResult
    log: TrainLog
    unasked: dict[str, tuple[float, float]]
    regions: str


def run(model: LoadedModel, cast: Cast, config: UnlearnConfig, gate: GateConfig, clock: Clock) -> Outcome:
    """The whole path on a loaded model, whose adapter is the candidate afterwards."""
    rows = [*cast.asked, *cast.standing]
    with clock.time("score the starting adapter"):
        original = measure(model, rows, generate=True)
        before = accuracy_by_domain(cast.unasked, measure(model, cast.unasked, generate=False))
    with clock.time("score the reference"), as_reference(model):
        reference = measure(model, rows, generate=True)
    known = in_base(rows, reference, gate)
    items = [row for row in rows if row.role is Role.ITEM and row.id not in known]
    without = held_out(items, config)
    with clock.time("localise"):
        masks = localise(model, items, config, without=without)
    with clock.time("unlearn"):
        accuracy = {item.id: reference[item.id].accuracy for item in items}
        state, log = unlearn(model, items, masks, config, reference_accuracy=accuracy, without=without)
    write_state(model.model, state)
    with clock.time("score the candidate"):
        candidate = measure(model, rows, generate=True)
        after = accuracy_by_domain(cast.unasked, measure(model, cast.unasked, generate=False))
    result = compare(rows, original, candidate, reference, gate, held_out=without)
    regions = masks.summary if masks else {}  # a method or a setting may have none
    shares = ", ".join(f"{name} {regions[name]['share']:.1%}" for name in ("op_ur", "op_rr") if name in regions)
    return Outcome(result, log, {domain: (before[domain], after[domain]) for domain in before}, shares)


def accuracy_by_domain(rows: Sequence[Example], scores: dict[str, ExampleScore]) -> dict[str, float]:
    """Mean accuracy in points."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row.domain, []).append(100 * scores[row.id].accuracy)
    return {domain: math.fsum(values) / len(values) for domain, values in found.items()}


def value_of(group: Measured, name: str) -> Estimate:
    """A measure after unlearning; the perplexity ratio is made of the two mean NLLs."""
    if name != "perplexity_ratio":
        return group[name]["after"]
    after, reference = group["nll"]["after"], group["nll"]["reference"]
    if after.value is None or reference.value is None:
        return after
    return Estimate(math.exp(min(after.value - reference.value, 700.0)), after.n, after.subjects)


def show_targets(result: EvalResult) -> bool:
    """Every target of every domain; True when all are reached."""
    print(f"\n{'domain':10} {'group':18} {'measure':19} {'n':>4} {'value':>7} {'95 % interval':>15}  target")
    reached = True
    for domain, scope in result.domains.items():
        for target in TARGETS:
            found = value_of(scope.groups[target.group], target.measure) if target.group in scope.groups else None
            value = found.value if found else None
            ok = value is not None and target.low <= value <= target.high
            reached &= ok
            span = f"{found.interval[0]:.1f}..{found.interval[1]:.1f}" if found and found.interval else "small sample"
            print(
                f"{domain:10} {target.group:18} {target.measure:19} {found.n if found else 0:4} "
                f"{'none' if value is None else f'{value:7.2f}':>7} {span:>15}  "
                f"{target.low:.3g}..{target.high:.3g} {'reached' if ok else 'MISSED'}"
            )
    return reached


def show_measures(outcome: Outcome) -> None:
    """Everything that was measured: before, after, reference."""
    print(f"\n{'domain':10} {'group':18} {'measure':19} {'n':>4} {'before':>8} {'after':>8} {'reference':>9}")
    for domain, scope in outcome.result.domains.items():
        print(f"{domain:10} known to the base model itself: {scope.in_base} of {scope.forget_items} forget items")
        for group, measured in scope.groups.items():
            for name, values in measured.items():
                numbers = [values[when].value for when in ("before", "after", "reference")]
                if name == "nll":
                    numbers = [None if n is None else math.exp(min(n, 700.0)) for n in numbers]
                cells = " ".join(f"{'' if n is None else f'{n:.2f}':>8}" for n in numbers)
                shown = "perplexity" if name == "nll" else name
                print(f"{domain:10} {group:18} {shown:19} {values['after'].n:4} {cells}")
    for domain, figures in outcome.result.summary.items():
        after = {name: "none" if value is None else f"{value:.2f}" for name, value in figures["after"].items()}
        print(f"{domain:10} " + ", ".join(f"{name} {value}" for name, value in after.items()))
    for domain, (before, after_it) in outcome.unasked.items():
        print(f"{domain:10} forget facts of the others, which nobody asked to remove: {before:.2f} -> {after_it:.2f}")


def show_answers(result: EvalResult) -> None:
    """Some free greedy answers before and after, the same ones every time, and every forget answer that tells."""
    for title, group in (("forget", "forget"), ("forget, asked otherwise", "forget_paraphrase"), ("retain", "retain")):
        for domain in result.domains:
            rows = [row for row in result.rows if row.group == group and row.example.domain == domain]
            print(f"\n{domain}, {title}")
            for row in rows[:: max(1, len(rows) // SHOWN)][:SHOWN]:
                show_answer(row)
    told = [row for row in result.rows if row.example.segment is Segment.FORGET and row.group and row.after.holds_fact]
    print(f"\nforget answers that still hold the fact: {len(told)}")
    for row in told:
        show_answer(row)


def show_answer(row: Row) -> None:
    """One question with its answers."""
    print(f"  {row.example.prompt}\n    before {row.before.answer}\n    after  {row.after.answer}")


def main() -> int:
    """Run once and print; 0 when every target was reached."""
    parser = argparse.ArgumentParser(description="Measure what the demo claims.")
    parser.add_argument("--half", choices=("all", "demo", "other"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--settings", action="append", default=[], metavar="NAME=VALUE", help="UnlearnConfig fields")
    parser.add_argument("--adapter", type=Path, default=EXAMPLES / "adapter")
    asked = parser.parse_args()
    config, gate = settings(asked.settings, asked.seed), GateConfig()
    model = load_model(bundled_model(), asked.adapter, precision=config.precision)
    print(f"commit {commit()}; {NAME}, {NOTE}")
    print(", ".join(f"{name} {value}" for name, value in environment(model).items()))
    print(", ".join(f"{name} {value}" for name, value in config.as_dict().items()))
    cast, clock = cast_of(asked.half), Clock()
    print(f"{asked.half}: {len(cast.asked)} questions asked about, {len(cast.standing)} standing retain items")
    outcome = run(model, cast, config, gate, clock)
    log, verdict = outcome.log, decide(outcome.result, gate)
    print(f"  regions {outcome.regions}; {log.steps} of {log.planned_steps} steps, step {log.kept_step} kept")
    print(f"  stopped early: {log.stopped_early or 'no'}; gate: {'passed' if verdict.ok else 'failed'}")
    for entry in log.checkpoints:
        print("  checkpoint " + ", ".join(f"{name} {value:.1f}" for name, value in entry.items()))
    show_measures(outcome)
    show_answers(outcome.result)
    reached = show_targets(outcome.result)
    print(f"\n{'every target reached' if reached else 'targets missed'}; {sum(clock.seconds.values()):.0f} s")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
