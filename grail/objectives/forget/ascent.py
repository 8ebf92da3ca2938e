"""`ascent`: the paper's objective, minus the mean completion NLL, with a stop rule for each token.

A token that has become so unlikely that its NLL is above `until` nats is pushed no further, and what it no longer asks
for is left to the retain side; `until` 0 never stops, as published. The weights are not the published factors (-0.4,
+2.0) either: with those, and the vanishing slope of what is known by heart, a short run forgets nothing, and a longer
one wrecks the adapter (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from grail.data.batches import PaddedBatch
from grail.model.forward import row_mean, token_nll
from grail.model.load import LoadedModel
from grail.objectives.base import Objective, RowLosses, Setting

PRESETS = {"learning_rate": 1e-3, "forget_weight": 3.0, "retain_weight": 1.0}
OPTIONS = {"until": 5.0}
LIMITS = {"until": (0.0, 1e6)}


@dataclass(frozen=True, slots=True)
class Ascent:
    """Minus the mean over completion tokens of min(NLL, `until`); of the NLL itself where `until` is 0."""

    until: float

    def __call__(self, model: LoadedModel, batch: PaddedBatch) -> RowLosses:
        """Losses (B,) of a micro-batch."""
        nll = token_nll(model, batch)  # (M,)
        pushed = nll.clamp(max=self.until) if self.until else nll
        return RowLosses(-row_mean(pushed, batch), row_mean(nll.detach(), batch))


ascent = Ascent(until=0.0)
"""As published."""


def make(setting: Setting) -> Objective:
    """Nothing stays the same from step to step: there is nothing to prepare."""
    return Ascent(setting.config.number("until"))
