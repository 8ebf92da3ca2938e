"""`ascent`: the paper's objective, minus the mean completion NLL. Unbounded: kept for comparison."""

from __future__ import annotations

from grail.data.batches import PaddedBatch
from grail.methods.base import RowLosses, descent, register
from grail.model.load import LoadedModel


@register("ascent")
def ascent(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """-NLL per example."""
    rows = descent(model, batch)
    return RowLosses(-rows.loss, rows.nll)
