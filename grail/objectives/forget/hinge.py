"""`hinge`: ascent per token, only while the token is more likely than under the reference. Bounded by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.model.forward import completion_logits, row_mean
from grail.model.load import LoadedModel, as_reference
from grail.objectives.base import Objective, RowLosses, Setting, label_logprobs

PRESETS = {"learning_rate": 2e-3, "forget_weight": 1.0, "retain_weight": 1.0}


@dataclass(frozen=True, slots=True)
class Hinge:
    """Mean over completion tokens of max(0, log p - log p_reference). `reference` maps an example to (T_c,)."""

    reference: Mapping[TokenisedExample, torch.Tensor] = field(repr=False)

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        nll = F.cross_entropy(completion_logits(model, batch), batch.labels, reduction="none")  # (M,)
        reference = torch.cat([self.reference[example] for example in batch.examples])  # (M,)
        return RowLosses(row_mean((-nll - reference).clamp(min=0.0), batch), row_mean(nll.detach(), batch))


def make(setting: Setting) -> Objective:
    """Ask the reference for each label's log-probability once."""
    with as_reference(setting.model):
        return Hinge(label_logprobs(setting))
