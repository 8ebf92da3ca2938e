"""What `grail plan` says beside what a job takes: seconds of each stage and peak memory, estimated and measured.

    python bench/plan_check.py                 three sizes, each in a process of its own, under two minutes each
    python bench/plan_check.py --size 1        one of them
    python bench/plan_check.py --precision fp32

The bundled 135M model with the example adapter runs the stages of a job on some facts of examples/: scores of the
starting adapter and the reference, regions, unlearning, scores of the candidate. One thread, and seconds of the
processor rather than of the clock, so that neighbours on the machine are not measured. The one figure that is taken
from the machine is its training rate, measured once before; everything else is `grail.plan` as it stands. Peak memory
is the process's own (ru_maxrss), on Linux.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provenance import commit

from cli.facts import EXAMPLES, read_facts
from grail.config import UnlearnConfig
from grail.plan import Estimate, Layout, ModelShape, Workload, cpu, estimate
from grail.plan.fit import width
from grail.plan.memory import weight_bytes
from grail.plan.seconds import Cost
from grail.types import Example, Segment

ROOT = Path(__file__).resolve().parents[1]
SIZES = ((8, 6, 6), (16, 8, 12), (28, 10, 12))
"""(facts of each domain, steps, micro-batch) of each run."""
CALIBRATION_PASSES = 4
STAGES = ("localise", "unlearn", "evaluate", "answer")


def examples_of(count: int) -> list[Example]:
    """The first `count` facts about people and as many about works."""
    facts = [fact for name in ("people", "works") for fact in read_facts(EXAMPLES / f"{name}.jsonl")[:count]]
    return [
        Example(f"{number:03d}", f.domain, Segment(f.segment), f.subject, f.prompt, f.completion, facts=(f.fact,))
        for number, f in enumerate(facts)
    ]


def config_of(steps: int, micro_batch: int, precision: str) -> UnlearnConfig:
    """Defaults, with few steps and one scoring at their end."""
    return UnlearnConfig(steps=steps, micro_batch=micro_batch, precision=precision)


class Stopwatch:
    """Processor seconds of each stage; a stage may be entered several times."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Adds what the block takes to the stage's seconds."""
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def load(precision: str):  # type: ignore[no-untyped-def]  # torch is imported where it is needed: the parent has none
    """The bundled model with the example adapter, on one thread."""
    import torch

    from grail.model.bundled import bundled_model
    from grail.model.load import load_model

    torch.set_num_threads(1)
    return load_model(bundled_model(), EXAMPLES / "adapter", precision=precision)


def workload(model, examples: list[Example]) -> Workload:  # type: ignore[no-untyped-def]
    """Counts and tokens as the model's tokenizer sees them."""
    tokenised = [model.tokenise(example) for example in examples]
    lengths = [len(tokens.input_ids) for tokens in tokenised]
    predicted = sum(tokens.completion_length for tokens in tokenised)
    forget = [example.domain for example in examples if example.segment is Segment.FORGET]
    counts = tuple(forget.count(domain) for domain in sorted(set(forget)))
    total, size = sum(lengths), len(lengths)
    return Workload(size, total, size, total, max(lengths), counts, predicted / total)


def run(size: int, precision: str) -> dict[str, object]:
    """One job, measured: in this process, which does nothing else."""
    from grail.evaluate import measure
    from grail.model.load import as_reference
    from grail.run import held_out, localise, unlearn

    count, steps, micro_batch = SIZES[size]
    examples, config, watch = examples_of(count), config_of(steps, micro_batch, precision), Stopwatch()
    model = load(precision)
    work = workload(model, examples)
    asked = [example for example in examples if example.segment is Segment.FORGET]
    measure(model, examples[:2], generate=True)  # what is set up on first use is no part of a stage
    with watch.time("evaluate"):
        measure(model, examples, generate=False)
    with as_reference(model):
        with watch.time("evaluate"):
            reference = measure(model, examples, generate=False)
        _answers(model, asked, watch)
    without = held_out(examples, config)
    with watch.time("localise"):
        masks = localise(model, examples, config, without=without)
    accuracy = {key: score.accuracy for key, score in reference.items()}
    with watch.time("unlearn"):
        unlearn(model, examples, masks, config, reference_accuracy=accuracy, without=without)
    with watch.time("evaluate"):
        measure(model, examples, generate=False)
    _answers(model, asked, watch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    dtype = "bf16" if model.precision.itemsize == 2 else "fp32"
    return {"seconds": watch.seconds, "bytes": peak, "work": dataclasses.asdict(work), "precision": dtype}


def _answers(model, asked: list[Example], watch: Stopwatch) -> None:  # type: ignore[no-untyped-def]
    """Free answers alone: the teacher-forced half of measuring is subtracted by running it a second time."""
    from grail.metrics.likelihood import forced, free_answers

    tokenised = [model.tokenise(example) for example in asked]
    known = forced(model, tokenised, 64)
    with watch.time("answer"):
        free_answers(model, asked, tokenised, 64, 256, known=known)


def calibrate(precision: str) -> float:
    """Training FLOP/s of this machine: passes over the first facts, forward and back, counted by the plan's own
    formula."""
    from grail.data.batches import pad
    from grail.objectives import descent

    model = load(precision)
    examples = examples_of(4)
    work = workload(model, examples)
    batch = pad([model.tokenise(example) for example in examples], model.pad_id, model.device)

    def once() -> None:
        descent(model, batch).loss.sum().backward()

    once()
    start = time.process_time()
    for _ in range(CALIBRATION_PASSES):
        once()
    seconds = (time.process_time() - start) / CALIBRATION_PASSES
    shape, entries = sizes()
    bytes_of_weights = weight_bytes(shape, Layout(model.precision.itemsize))
    length = work.item_tokens / work.items
    cost = Cost(shape, entries, length, work.completion_share, cpu(1), bytes_of_weights, False)
    beside = cost.seconds(0.0, 1, back=True)
    return work.item_tokens * cost.training / max(seconds - beside, seconds / 2)


def sizes() -> tuple[ModelShape, int]:
    """Shape of the bundled model and entries of the example adapter."""
    from grail.model.bundled import bundled_model

    shape = ModelShape.from_config(json.loads((bundled_model() / "config.json").read_text()))
    adapter = json.loads((EXAMPLES / "adapter" / "adapter_config.json").read_text())
    return shape, shape.adapter_entries(adapter["r"], adapter["target_modules"])


def child(*arguments: str) -> object:
    """What this file says in a fresh process on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__)), *arguments]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(size: int, result: dict, guess: Estimate) -> None:
    """One size as a table: estimated, measured, their quotient."""
    work = result["work"]
    print(f"size {size}: {work['items']} items, {work['item_tokens']} tokens, {SIZES[size][1]} steps")
    stages = {**guess.stages, "unlearn": guess.stages["train"] + guess.stages["select"]}
    rows = [(name, stages[name], result["seconds"][name], "s") for name in STAGES]
    rows.append(("all", guess.seconds, sum(result["seconds"].values()), "s"))
    rows.append(("memory", guess.bytes / 1e6, result["bytes"] / 1e6, "MB"))
    for name, guessed, measured, unit in rows:
        off = 100 * (guessed / measured - 1)
        print(f"  {name:9s} estimated {guessed:8.1f} {unit:2s}  measured {measured:8.1f} {unit:2s}  {off:+5.0f} %")
    sys.stdout.flush()


def compare(chosen: list[int], precision: str) -> None:
    """Calibrate, run each size, and print both sides."""
    rate = float(child("--calibrate", "--precision", precision))  # type: ignore[arg-type]
    print(f"commit {commit()}")
    print(f"training rate of one thread: {rate / 1e9:.1f} GFLOP/s")
    device = dataclasses.replace(cpu(1), flop_per_second=rate)
    shape, entries = sizes()
    for size in chosen:
        result: dict = child("--run", str(size), "--precision", precision)  # type: ignore[assignment]
        work = Workload(**{**result["work"], "forget_items": tuple(result["work"]["forget_items"])})
        config = config_of(SIZES[size][1], SIZES[size][2], result["precision"])
        layout = Layout(width(result["precision"]))
        show(size, result, estimate(shape, entries, work, config, device, layout))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=range(len(SIZES)), action="append")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--run", type=int, choices=range(len(SIZES)), help=argparse.SUPPRESS)
    parser.add_argument("--calibrate", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.calibrate:
        print(json.dumps(calibrate(chosen.precision)))
    elif chosen.run is not None:
        print(json.dumps(run(chosen.run, chosen.precision)))
    else:
        compare(chosen.size or list(range(len(SIZES))), chosen.precision)


if __name__ == "__main__":
    main()
