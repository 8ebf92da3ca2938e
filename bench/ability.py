"""General ability of a model with and without adapters (paper Table II): MMLU, ARC-Challenge, TruthfulQA, SIQA, RACE.

    python bench/ability.py                                         the bundled model alone, 100 questions a task
    python bench/ability.py --adapter off --adapter DIR             the model alone, then with an adapter
    python bench/ability.py --adapter OLD --adapter NEW --sample 500 --tasks mmlu,arc_challenge --out ability.json

Each adapter after the first is compared with the first, question by question. The sample is the same for all: fixed by
the seed, drawn evenly over MMLU's subjects. A task whose file is absent is left out and named. Questions are put as
lm-eval 0.4.13 puts them (grail/data/ability.py), of the model as it is, without a chat template.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from provenance import commit

from grail.data.ability import TASKS, AbilityDataMissing, Question, load_task, sample
from grail.metrics.ability import ROWS_AT_ONCE, Ability, AbilityChange, ability_change, measure_ability
from grail.metrics.intervals import Estimate
from grail.model.adapter import adapter_off
from grail.model.bundled import NAME, NOTE, bundled_model
from grail.model.load import LoadedModel, load_model, lora_shape

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "general"
OFF = "off"
PROGRESS_SECONDS = 15.0


class TimeLeft:
    """Says now and then on the error stream how far a measurement is; long questions come first, so that it is done
    sooner than it says."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.count = name, total, 0
        self.start = self.said = time.monotonic()

    def done(self, more: int) -> None:
        """`more` choices are scored."""
        self.count += more
        now = time.monotonic()
        if now - self.said >= PROGRESS_SECONDS or self.count == self.total:
            self.said = now
            left = (now - self.start) * (self.total - self.count) / self.count
            print(
                f"  {self.name}: {self.count} of {self.total} choices, {left:.0f} s left", file=sys.stderr, flush=True
            )


def drawn(directory: Path, tasks: Sequence[str], count: int, seed: int) -> dict[str, list[Question]]:
    """The sample of each task whose file is there; says what it is and what is left out."""
    found = {}
    for task in tasks:
        try:
            whole = load_task(directory, task)
        except AbilityDataMissing as error:
            print(f"skipped: {error}")
            continue
        found[task] = sample(whole, count, seed)
        subjects = len({question.subject for question in found[task]})
        parts = f" from {subjects} subjects" if subjects > 1 else ""
        print(f"{task}: {len(found[task])} of {len(whole)} questions{parts}, seed {seed}")
    return found


def loaded(base: Path, adapter: str, precision: str) -> LoadedModel:
    """The base model with an adapter directory; for `off` with a fresh adapter, to be switched off."""
    if adapter != OFF:
        return load_model(base, Path(adapter), precision=precision)
    return load_model(base, None, precision=precision, lora=lora_shape(1))


def measured(
    model: LoadedModel, adapter: str, questions: dict[str, list[Question]], micro_batch: int
) -> dict[str, Ability]:
    """The ability of one adapter in every task."""
    found = {}
    for task, asked in questions.items():
        watch = TimeLeft(f"adapter {adapter}, {task}", sum(len(question.choices) for question in asked))
        if adapter == OFF:
            with adapter_off(model.model):
                found |= measure_ability(model, asked, micro_batch, watch.done)
        else:
            found |= measure_ability(model, asked, micro_batch, watch.done)
    return found


def shown(estimate: Estimate, sign: str = "") -> str:
    """n, value and interval."""
    if estimate.value is None or estimate.interval is None:
        value = "none" if estimate.value is None else f"{estimate.value:{sign}.1f}"
        return f"{estimate.n:5} {value:>7}  {estimate.note}"
    low, high = estimate.interval
    return f"{estimate.n:5} {estimate.value:{sign}7.1f}  {low:{sign}.1f}..{high:{sign}.1f}"


def show(title: str, figures: dict[str, Ability] | dict[str, AbilityChange], sign: str = "") -> None:
    """A table of accuracies, or of their differences in points."""
    print(f"\n{title}\n  {'task':15} {'measure':9} {'n':>5} {'value':>7}  95 % interval")
    for task, found in figures.items():
        gone = f"  (gained {found.gained}, lost {found.lost})" if isinstance(found, AbilityChange) else ""
        print(f"  {task:15} {'acc':9} {shown(found.accuracy, sign)}{gone}")
        if found.accuracy_norm is not None:
            print(f"  {task:15} {'acc_norm':9} {shown(found.accuracy_norm, sign)}")


def write(
    path: Path, asked: argparse.Namespace, base: str, states: dict[str, dict[str, Ability]],
    changes: dict[str, dict[str, AbilityChange]],
) -> None:  # fmt: skip
    """Everything as JSON, with what each question was answered (by id; no text of it)."""
    document = {
        "base": base, "precision": asked.precision, "seed": asked.seed, "sample": asked.sample,
        "adapters": {name: {task: asdict(found) for task, found in tasks.items()} for name, tasks in states.items()},
        "changes": {name: {task: asdict(found) for task, found in tasks.items()} for name, tasks in changes.items()},
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """What was asked for. Exits for an unknown task."""
    parser = argparse.ArgumentParser(description="Measure general ability.")
    parser.add_argument("--base", type=Path, help="directory of the base model (the bundled one)")
    parser.add_argument(
        "--adapter", action="append", metavar="DIR", help=f"or `{OFF}`; several: compared with the first"
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated (%(default)s)")
    parser.add_argument("--sample", type=int, default=100, metavar="N", help="questions a task (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (%(default)s)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--micro-batch", type=int, default=ROWS_AT_ONCE, help="questions in one pass (%(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the tasks' files (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write everything there, question by question")
    asked = parser.parse_args()
    asked.tasks = asked.tasks.split(",")
    unknown = [task for task in asked.tasks if task not in TASKS]
    if unknown:
        parser.error(f"no task is called {', '.join(unknown)}; known: {', '.join(TASKS)}")
    if asked.sample < 1 or asked.micro_batch < 1:
        parser.error("--sample and --micro-batch must be 1 or more")
    asked.adapter = list(dict.fromkeys(asked.adapter or [OFF]))
    return asked


def main() -> int:
    """Measure, compare, print."""
    asked = arguments()
    questions = drawn(asked.data, asked.tasks, asked.sample, asked.seed)
    if not questions:
        return 0
    base = asked.base or bundled_model()
    print(f"commit {commit()}")
    name = f"{NAME}, {NOTE}" if asked.base is None else str(base)
    states: dict[str, dict[str, Ability]] = {}
    for adapter in asked.adapter:
        model = loaded(base, adapter, asked.precision)
        start = time.monotonic()
        states[adapter] = measured(model, adapter, questions, asked.micro_batch)
        dtype = str(model.precision).removeprefix("torch.")
        show(f"{name}; adapter {adapter}; {dtype}; {time.monotonic() - start:.0f} s", states[adapter])
    first, *others = asked.adapter
    changes = {other: ability_change(states[first], states[other]) for other in others}
    for other, change in changes.items():
        show(f"adapter {other} minus adapter {first}, paired, in points", change, "+")
    if asked.out is not None:
        write(asked.out, asked, name, states, changes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
