"""How objectives are found and made. An objective owns its sign; `train` knows only the interface.

An objective is made once a run, from the model as it then stands (the original) and all examples it will see: what
stays the same from step to step (the reference's view of an example, labels that are drawn) is computed then, in
batches of fixed composition, so that a run that is resumed computes the same numbers as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

import torch

from grail.catalogue import FORGET, RETAIN, names
from grail.config import UnlearnConfig
from grail.data.batches import PaddedBatch, by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits, example_nll
from grail.model.load import LoadedModel


@dataclass(frozen=True, slots=True)
class RowLosses:
    """`loss` (B,) is minimised; `nll` (B,), detached, is what logs show."""

    loss: torch.Tensor = field(repr=False)
    nll: torch.Tensor = field(repr=False)


Objective = Callable[[LoadedModel, PaddedBatch], RowLosses]
"""What is minimised on a micro-batch of one segment. It owns its sign; weights are applied outside."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an objective is made from: the model as it stands before the first step, every example it will see, and the
    run's settings (`micro_batch` bounds a forward pass, `options` and `seed` are the objective's)."""

    model: LoadedModel
    examples: Sequence[TokenisedExample] = field(repr=False)
    config: UnlearnConfig


def objective(kind: str, name: str, setting: Setting) -> Objective:
    """The objective of that name (`kind` FORGET or RETAIN) made for a run: what `make` in its file returns.

    Raises KeyError that lists the known ones.
    """
    if kind not in (FORGET, RETAIN) or name not in names(kind):
        raise KeyError(f"no objective in {kind} is called {name!r}; known: {', '.join(names(kind))}")
    module = import_module(f"grail.{kind.replace('/', '.')}.{name}")
    made: Objective = module.make(setting)
    return made


def descent(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """Plain mean completion NLL."""
    nll = example_nll(model, batch)
    return RowLosses(nll, nll.detach())


@torch.no_grad()
def label_logprobs(setting: Setting) -> Mapping[TokenisedExample, torch.Tensor]:
    """Log-probabilities (T_c,) of each distinct example's own label tokens under the network as it stands."""
    model = setting.model
    found: dict[TokenisedExample, torch.Tensor] = {}
    for chunk in by_length(list(dict.fromkeys(setting.examples)), setting.config.micro_batch):
        batch = pad(chunk, model.pad_id, model.device)
        logprobs = torch.log_softmax(completion_logits(model, batch), dim=-1)  # (M, V)
        own = logprobs.gather(-1, batch.labels.to(logprobs.device)[:, None]).squeeze(-1)  # (M,)
        found.update(zip(chunk, torch.split(own, [e.completion_length for e in chunk]), strict=True))
    return found
