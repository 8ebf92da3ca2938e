"""The registry of objectives. An objective owns its sign; `train` knows only the interface.

An objective is made once a run, from the model and all forget examples: what stays the same from step to step (the
reference's view of an example) is computed then, in batches of fixed composition, so that a run that is resumed
computes the same numbers as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits, completion_nll
from grail.model.load import LoadedModel


@dataclass(frozen=True, slots=True)
class RowLosses:
    """`loss` (B,) is minimised; `nll` (B,), detached, is what logs show."""

    loss: torch.Tensor = field(repr=False)
    nll: torch.Tensor = field(repr=False)


Objective = Callable[[LoadedModel, PaddedBatch], RowLosses]
"""What is minimised on a micro-batch of forget examples. It owns its sign; weights are applied outside."""

Maker = Callable[[LoadedModel, Sequence[TokenisedExample], int], Objective]
"""Makes an objective for a run over these forget examples, with at most so many rows in one forward pass."""

_MAKERS: dict[str, Maker] = {}


def register(name: str) -> Callable[[Maker], Maker]:
    """Register the maker of an objective under `name`. Raises ValueError when the name is taken."""

    def keep(maker: Maker) -> Maker:
        if name in _MAKERS:
            raise ValueError(f"the objective {name} is registered already")
        _MAKERS[name] = maker
        return maker

    return keep


def objective(name: str, model: LoadedModel, examples: Sequence[TokenisedExample], micro_batch: int) -> Objective:
    """The objective of that name, made for `examples`. Raises KeyError that lists the known ones."""
    try:
        maker = _MAKERS[name]
    except KeyError:
        raise KeyError(f"no objective is called {name!r}; known: {', '.join(sorted(_MAKERS))}") from None
    return maker(model, examples, micro_batch)


def known_objectives() -> list[str]:
    """Every registered name."""
    return sorted(_MAKERS)


def descent(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """Plain mean completion NLL: what every method minimises on retain examples."""
    nll = completion_nll(completion_logits(model, batch), batch)
    return RowLosses(nll, nll.detach())
