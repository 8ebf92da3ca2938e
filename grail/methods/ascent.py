"""`ascent`: the paper's objective, minus the mean completion NLL. Unbounded: kept for comparison."""

from __future__ import annotations

from collections.abc import Sequence

from grail.data.batches import PaddedBatch
from grail.data.tokenise import TokenisedExample
from grail.methods.base import Objective, RowLosses, descent, register
from grail.model.load import LoadedModel


def ascent(model: LoadedModel, batch: PaddedBatch) -> RowLosses:
    """-NLL per example."""
    rows = descent(model, batch)
    return RowLosses(-rows.loss, rows.nll)


@register("ascent")
def make(_: LoadedModel, __: Sequence[TokenisedExample], ___: int) -> Objective:
    """Nothing stays the same from step to step: there is nothing to prepare."""
    return ascent
