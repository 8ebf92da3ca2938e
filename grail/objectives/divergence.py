"""KL(target || current) at every completion position, where the target is the same network with another adapter or
none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch, by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_hidden, head, row_mean
from grail.model.load import LoadedModel
from grail.objectives.base import RowLosses, Setting

REMEMBERED_BYTES = 512 * 2**20
"""Hidden states of the target that are kept; examples beyond it are passed through the target each time."""

HiddenStates = Mapping[TokenisedExample, torch.Tensor]
AsTarget = Callable[[LoadedModel], AbstractContextManager[None]]
"""Makes the network the target while it is open."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Mean KL(target || current) of each example: bounded below by 0, reached when the two say the same about it.

    `remembered` maps an example to the target's last hidden states (T_c, H) at its completion positions, a hundredth
    of the size of its log-probabilities: only the output matrix is multiplied again each time.
    """

    as_target: AsTarget
    remembered: HiddenStates = field(repr=False)

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        with torch.no_grad(), self.as_target(model):
            target = F.log_softmax(head(model, self._hidden(model, batch)), dim=-1)  # (M, V)
        current = F.log_softmax(head(model, completion_hidden(model, batch)), dim=-1)  # (M, V)
        divergence = F.kl_div(current, target, reduction="none", log_target=True).sum(dim=-1)  # (M,)
        nll = -current.detach().gather(-1, batch.labels[:, None]).squeeze(-1)  # (M,)
        return RowLosses(row_mean(divergence, batch), row_mean(nll, batch))

    def _hidden(self, model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
        """The target's hidden states (M, H): remembered where all of the batch's examples are."""
        if batch.examples and all(example in self.remembered for example in batch.examples):
            return torch.cat([self.remembered[example] for example in batch.examples])
        return completion_hidden(model, batch)


def divergence(setting: Setting, as_target: AsTarget) -> Divergence:
    """Pass every example through the target once, and remember."""
    with torch.no_grad(), as_target(setting.model):
        return Divergence(as_target, dict(_hidden_states(setting)))


def _hidden_states(setting: Setting) -> Iterator[tuple[TokenisedExample, torch.Tensor]]:
    """Hidden states (T_c, H) of each distinct example, until they take REMEMBERED_BYTES."""
    taken, model = 0, setting.model
    for chunk in by_length(list(dict.fromkeys(setting.examples)), setting.config.micro_batch):
        hidden = completion_hidden(model, pad(chunk, model.pad_id, model.device))  # (M, H)
        taken += hidden.nbytes
        if taken > REMEMBERED_BYTES:
            return
        parts = torch.split(hidden, [example.completion_length for example in chunk])
        yield from zip(chunk, parts, strict=True)
