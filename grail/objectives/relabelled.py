"""Descent on the same input with other labels at the completion positions: what makes a model say something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits, completion_nll, row_mean
from grail.model.load import LoadedModel
from grail.objectives.base import RowLosses


@dataclass(frozen=True, slots=True)
class Relabelled:
    """`labels` maps an example to the token ids (T_c,) that its completion positions are taught instead."""

    labels: Mapping[TokenisedExample, torch.Tensor] = field(repr=False)

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Mean NLL (B,) of the other labels; what is logged is that of the true ones."""
        logits = completion_logits(model, batch)  # (M, V)
        wanted = torch.cat([self.labels[example] for example in batch.examples]).to(logits.device)  # (M,)
        loss = row_mean(F.cross_entropy(logits, wanted, reduction="none"), batch)
        return RowLosses(loss, completion_nll(logits.detach(), batch))
