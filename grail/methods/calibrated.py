"""`calibrated`: the target is the model that never knew, which with LoRA is at hand: the same network, adapter off."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.methods.base import RowLosses, register
from grail.model.forward import completion_logits, completion_nll, row_mean
from grail.model.load import LoadedModel, as_reference


@register("calibrated")
def calibrated(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """KL(reference || current) at every completion position, mean per example: bounded below by 0, reached when the
    adapter no longer speaks about the example at all."""
    with torch.no_grad(), as_reference(model):
        reference = F.log_softmax(completion_logits(model, batch), dim=-1)  # (M, V)
    logits = completion_logits(model, batch)
    current = F.log_softmax(logits, dim=-1)  # (M, V)
    divergence = F.kl_div(current, reference, reduction="none", log_target=True).sum(dim=-1)  # (M,)
    return RowLosses(row_mean(divergence, batch), completion_nll(logits.detach(), batch))
