"""`calibrated`: the target is the model that never knew, which with LoRA is at hand: the same network, adapter off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch, by_length, pad
from grail.data.tokenise import TokenisedExample
from grail.methods.base import Objective, RowLosses, register
from grail.model.forward import completion_hidden, head, row_mean
from grail.model.load import LoadedModel, as_reference

REMEMBERED_BYTES = 512 * 2**20
"""Hidden states of the reference that are kept; examples beyond it are passed through the reference each time."""

HiddenStates = Mapping[TokenisedExample, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """KL(reference || current) at every completion position, mean per example: bounded below by 0, reached when the
    adapter no longer speaks about the example at all.

    `remembered` maps an example to the reference's last hidden states (T_c, H) at its completion positions, a
    hundredth of the size of its log-probabilities: only the output matrix is multiplied again each time.
    """

    remembered: HiddenStates = field(repr=False)

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        with torch.no_grad(), as_reference(model):
            reference = F.log_softmax(head(model, self._hidden(model, batch)), dim=-1)  # (M, V)
        current = F.log_softmax(head(model, completion_hidden(model, batch)), dim=-1)  # (M, V)
        divergence = F.kl_div(current, reference, reduction="none", log_target=True).sum(dim=-1)  # (M,)
        nll = -current.detach().gather(-1, batch.labels[:, None]).squeeze(-1)  # (M,)
        return RowLosses(row_mean(divergence, batch), row_mean(nll, batch))

    def _hidden(self, model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
        """The reference's hidden states (M, H): remembered where all of the batch's examples are."""
        if batch.examples and all(example in self.remembered for example in batch.examples):
            return torch.cat([self.remembered[example] for example in batch.examples])
        return completion_hidden(model, batch)


@register("calibrated")
def make(model: LoadedModel, examples: Sequence[TokenisedExample], micro_batch: int) -> Objective:
    """Pass every example through the reference once."""
    with torch.no_grad(), as_reference(model):
        return Calibrated(dict(_hidden_states(model, examples, micro_batch)))


def _hidden_states(
    model: LoadedModel, examples: Sequence[TokenisedExample], micro_batch: int
) -> Iterator[tuple[TokenisedExample, torch.Tensor]]:
    """Hidden states (T_c, H) of each distinct example, until they take REMEMBERED_BYTES."""
    taken = 0
    for chunk in by_length(list(dict.fromkeys(examples)), micro_batch):
        hidden = completion_hidden(model, pad(chunk, model.pad_id, model.device))  # (M, H)
        taken += hidden.nbytes
        if taken > REMEMBERED_BYTES:
            return
        parts = torch.split(hidden, [example.completion_length for example in chunk])
        yield from zip(chunk, parts, strict=True)
