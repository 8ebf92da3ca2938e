"""One forward pass: logits at completion positions only (the vocabulary is most of a small model's cost)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F  # noqa: N812  torch's own customary name

from grail.data.batches import PaddedBatch
from grail.model.lean import lean_of, position_nll
from grail.model.load import LoadedModel


@contextmanager
def precision(model: LoadedModel) -> Iterator[None]:
    """bf16 autocast where the base is bf16, so that fp32 adapter masters meet bf16 activations; else nothing."""
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.precision is torch.bfloat16):
        yield


def completion_hidden(model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
    """Last hidden states (M, H) at the positions that predict `batch.labels`, in their order and on their device,
    wherever the last layer lies."""
    lean = lean_of(model.model)
    sooner = lean.completion_hidden(batch) if lean else None
    if sooner is not None:
        return sooner
    decoder = model.model.get_base_model()
    with precision(model):
        hidden: torch.Tensor = decoder.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state  # (B, T, H)
    at = hidden.device
    return hidden[batch.rows.to(at), batch.positions.to(at)].to(batch.labels.device)


def head(model: LoadedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits (M, V) fp32 of hidden states (M, H), scaled or capped where the model does so (Granite, Cohere, Gemma); on
    the device of the hidden states, wherever the output matrix lies (accelerate brings what it multiplies to it)."""
    network = model.model.get_base_model()
    with precision(model):
        logits: torch.Tensor = network.lm_head(hidden)
    config, logits = network.config, logits.to(hidden.device).float()
    scale = getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
    if scale != 1.0:
        logits = logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def completion_logits(model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
    """Logits (M, V) fp32 that predict `batch.labels`, in their order."""
    return head(model, completion_hidden(model, batch))


def row_mean(values: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """Mean over each row's completion positions: values (M,) -> (B,)."""
    sums = torch.zeros(batch.size, dtype=values.dtype, device=values.device).index_add(0, batch.rows, values)
    counts = torch.bincount(batch.rows, minlength=batch.size).to(values.dtype)
    return sums / counts


def completion_nll(logits: torch.Tensor, batch: PaddedBatch) -> torch.Tensor:
    """Mean completion-token negative log-likelihood of each row in nats: logits (M, V) -> (B,)."""
    return row_mean(F.cross_entropy(logits, batch.labels, reduction="none"), batch)


def token_nll(model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
    """Negative log-likelihood (M,) in nats of each completion token, without ever holding the logits where the lean
    path serves."""
    hidden = completion_hidden(model, batch)
    if lean_of(model.model) is None:
        return F.cross_entropy(head(model, hidden), batch.labels, reduction="none")
    return position_nll(hidden, model.model.get_base_model().lm_head.weight, batch.labels)


def example_nll(model: LoadedModel, batch: PaddedBatch) -> torch.Tensor:
    """`completion_nll(completion_logits(...))` (B,), by `token_nll`."""
    return row_mean(token_nll(model, batch), batch)
