"""Resume checkpoints: adapter, moments, data position, generator states, selection. Safetensors, never pickle.

Written to a temporary name, fsynced and renamed; a half-written checkpoint is never seen. A run that goes on from one
gives the same adapter bit for bit as an uninterrupted run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from grail.data.batches import Cycle
from grail.selection import CheckpointScore, Selection

FILE = "resume.safetensors"


class HasCycles(Protocol):
    """A side of the training loop, seen from here."""

    segment: Any
    cycles: dict[str, Cycle]


@dataclass(slots=True)
class Resume:
    """Where a run keeps its resume checkpoint, and `found`: whether it went on from one."""

    directory: Path
    found: bool = False


def save_resume(
    resume: Resume,
    done: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    sides: Sequence[HasCycles],
    selection: Selection,
    losses: Sequence[Mapping[str, float]],
) -> None:
    """Write the state after `done` steps, atomically."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"adapter/{name}"] = parameter.detach().clone()
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment]
    orders: dict[str, list[int]] = {}
    for side in sides:
        for domain, cycle in side.cycles.items():
            state = cycle.state()
            tensors[f"generator/{side.segment}/{domain}"] = state["generator"]
            orders[f"{side.segment}/{domain}"] = state["order"]
    for name, tensor in (selection.state or {}).items():
        tensors[f"best/{name}"] = tensor
    meta = {
        "done": done,
        "orders": orders,
        "losses": list(losses),
        "history": selection.history,
        "step": selection.step,
        "best": asdict(selection.best) if selection.best else None,
        "stopped_early": selection.stopped_early,
    }
    resume.directory.mkdir(parents=True, exist_ok=True)
    partial = resume.directory / f".{FILE}.{os.getpid()}"
    save_file(tensors, partial, metadata={"resume": json.dumps(meta)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(resume.directory / FILE)


def load_resume(
    resume: Resume,
    parameters: Mapping[str, torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
    sides: Sequence[HasCycles],
    selection: Selection,
    losses: list[dict[str, float]],
) -> int:
    """Restore everything from the checkpoint, if there is one; returns the steps done (0 without one)."""
    path = resume.directory / FILE
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        meta = json.loads(file.metadata()["resume"])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"adapter/{name}"])
            optimiser.state[parameter] = {
                "step": torch.tensor(float(meta["done"])),
                **{m: tensors[f"{m}/{name}"].to(parameter.device) for m in ("exp_avg", "exp_avg_sq")},
            }
    for side in sides:
        for domain, cycle in side.cycles.items():
            key = f"{side.segment}/{domain}"
            cycle.restore({"order": meta["orders"][key], "generator": tensors[f"generator/{key}"]})
    best = {name.removeprefix("best/"): tensor for name, tensor in tensors.items() if name.startswith("best/")}
    selection.state = best or None
    selection.best = CheckpointScore(**meta["best"]) if meta["best"] else None
    selection.step, selection.history, selection.stopped_early = meta["step"], meta["history"], meta["stopped_early"]
    losses[:] = meta["losses"]
    resume.found = True
    return int(meta["done"])
