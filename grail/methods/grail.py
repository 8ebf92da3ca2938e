"""GRAIL: OP-UR and OP-RR of the adapter's entries, and an objective, regions and a mask rule of the policy's choice."""

from __future__ import annotations

from grail.localise.regions import locate

PRESETS = {
    "objective": "calibrated", "retain_objective": "descent", "retain_source": "domains", "regions": "localised",
    "mask_rule": "conditioned",
}  # fmt: skip

__all__ = ["locate"]
