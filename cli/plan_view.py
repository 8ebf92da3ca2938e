"""How `grail plan` answers: tables of seconds and memory, one sentence whether it fits, and what was assumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import typer

from cli.show import show_table
from grail.config import UnlearnConfig
from grail.plan import Device, ModelShape, Plan, Workload
from grail.plan.fit import MOST_DEVICES

PARTS = ("runtime", "weights", "file", "adapter", "scores", "masks", "activations", "logits")
NAMES = {"adapter": "adapter + moments", "file": "file while converting"}
STAGES = {
    "localise": "localise",
    "train": "train",
    "select": "score checkpoints",
    "evaluate": "measure",
    "answer": "free answers",
}


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked."""

    model: str
    shape: ModelShape
    entries: int
    load: Workload
    how: str
    config: UnlearnConfig
    device: Device
    devices: int


def duration(seconds: float) -> str:
    """Two figures and a unit that suits them."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def gigabytes(count: float) -> str:
    """Decimal gigabytes, as cards are sold."""
    return f"{count / 1e9:.2f} GB"


def verdict(question: Question, found: Plan) -> str:
    """Whether it fits, in one sentence."""
    device, needed = question.device, gigabytes(found.estimate.bytes)
    each = " on each" if question.devices > 1 else ""
    on = f"{question.devices} x {device.name}" if question.devices > 1 else device.name
    if device.memory is None:
        return f"It needs {needed}{each}; how much {on} has is not known."
    held = gigabytes(device.memory)
    if not found.fits:
        least = found.least_devices
        way = (
            f"{least} such devices hold it in full precision"
            if least
            else f"{MOST_DEVICES} such devices do not hold it"
        )
        return f"It does not fit {on}: {needed} of {held}{each}, even as small as it can be made; {way}."
    return f"It fits {on}: {needed} of {held}{each}, {_way(question, found)}."


def _way(question: Question, found: Plan) -> str:
    """With what it fits."""
    size, place = found.micro_batch, found.layout
    words = [f"with micro-batches of {size}"]
    if size < question.config.micro_batch:
        words[0] += f" (asked for: {question.config.micro_batch})"
    words.append("with activation checkpointing" if place.checkpointing else "without activation checkpointing")
    words.append(
        {"none": "the base as it is", "int8": "the base in 8 bits", "nf4": "the base in 4 bits"}[place.quantisation]
    )
    return ", ".join(words)


def assumptions(question: Question, found: Plan) -> list[str]:
    """What the figures rest on."""
    device, load, config = question.device, question.load, question.config
    steps = config.planned_steps(load.forget_items)
    weights, entries = f"{question.shape.parameters / 1e9:.3g} billion", f"{question.entries / 1e6:.3g} million"
    lines = [
        f"{device.name}: {device.flop_per_second / 1e12:.3g} TFLOP/s reached in training ({device.basis})",
        f"{weights} weights in {config.precision}, {entries} adapter entries",
        f"{load.items} items ({sum(load.forget_items)} to forget), {load.item_tokens} tokens; {load.scored} texts "
        f"scored, {load.scored_tokens} tokens, the longest {load.longest_tokens}; {question.how}",
        f"{steps} steps of {config.examples_per_step} examples at most",
        "padding, loading the weights and their digest are not counted",
    ]
    if question.devices > 1:
        lines.append(
            f"layers spread over {question.devices} devices: memory is divided, time is not (one works at a time)"
        )
    if found.layout.quantisation != "none":
        lines.append("spreading out quantised weights at each pass is not counted in the seconds")
    return lines


def show_plan(question: Question, found: Plan) -> None:
    """For a person."""
    result = found.estimate
    rows = [
        (STAGES[name], duration(seconds), f"{100 * seconds / result.seconds if result.seconds else 0:.0f} %")
        for name, seconds in result.stages.items()
    ]
    show_table(("stage", "time", "share"), [*rows, ("all", duration(result.seconds), "100 %")], empty="")
    names = list(result.memory)
    there = [part for part in PARTS if any(part in parts for parts in result.memory.values())]
    table = [
        (
            NAMES.get(part, part),
            *(gigabytes(result.memory[s][part]) if part in result.memory[s] else "-" for s in names),
        )
        for part in there
    ]
    total = ("all", *(gigabytes(sum(result.memory[stage].values())) for stage in names))
    show_table(("memory on a device", *names), [*table, total], empty="")
    typer.echo(verdict(question, found))
    typer.echo("Assumed:")
    for line in assumptions(question, found):
        typer.echo(f"  - {line}")


def as_json(question: Question, found: Plan) -> dict[str, Any]:
    """For a program."""
    result = found.estimate
    return {
        "model": question.model,
        "device": asdict(question.device),
        "devices": question.devices,
        "fits": found.fits,
        "verdict": verdict(question, found),
        "seconds": result.seconds,
        "stages": dict(result.stages),
        "bytes": result.bytes,
        "memory": {name: dict(parts) for name, parts in result.memory.items()},
        "micro_batch": found.micro_batch,
        "activation_checkpointing": found.layout.checkpointing,
        "quantisation": found.layout.quantisation,
        "least_devices": found.least_devices,
        "workload": asdict(question.load),
        "assumptions": assumptions(question, found),
    }
