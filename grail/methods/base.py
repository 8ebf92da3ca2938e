"""One signature, many small objectives, one registry that refuses overwrites and lists what it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from grail.data.batches import PaddedBatch
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel


@dataclass(frozen=True, slots=True)
class RowLosses:
    """`loss` (B,) is minimised; `nll` (B,), detached, is what logs show."""

    loss: torch.Tensor = field(repr=False)
    nll: torch.Tensor = field(repr=False)


Objective = Callable[[LoadedModel, PaddedBatch], RowLosses]
"""What is minimised on a micro-batch of forget examples. It owns its sign; weights are applied outside."""

_OBJECTIVES: dict[str, Objective] = {}


def register(name: str) -> Callable[[Objective], Objective]:
    """Register an objective under `name`. Raises ValueError when the name is taken."""

    def keep(objective: Objective) -> Objective:
        if name in _OBJECTIVES:
            raise ValueError(f"the objective {name} is registered already")
        _OBJECTIVES[name] = objective
        return objective

    return keep


def objective(name: str) -> Objective:
    """The objective of that name. Raises KeyError that lists the known ones."""
    try:
        return _OBJECTIVES[name]
    except KeyError:
        raise KeyError(f"no objective is called {name!r}; known: {', '.join(sorted(_OBJECTIVES))}") from None


def known_objectives() -> list[str]:
    """Every registered name."""
    return sorted(_OBJECTIVES)


def descent(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """Plain mean completion NLL: what every method minimises on retain examples."""
    nll = completion_nll(completion_logits(model, batch), batch)
    return RowLosses(nll, nll.detach())
