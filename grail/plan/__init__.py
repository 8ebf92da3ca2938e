"""Seconds and bytes of a job from first principles, before anything is computed. Standard library only.

`shape` holds the sizes of a model and of the work, `devices` what a device reaches, `seconds` and `memory` the
formulas, `fit` the choice of what fits a device. Lengths are means over the examples, so that padding is not counted:
read the figures as "about this much", not as a promise. `bench/plan_check.py` puts them beside measured runs.
"""

from grail.plan.devices import DEVICES, Device, cpu, device_named
from grail.plan.fit import Estimate, Plan, estimate, plan, width
from grail.plan.memory import Layout, stage_bytes
from grail.plan.seconds import stage_seconds
from grail.plan.shape import NAMED_SHAPES, ModelShape, Workload

__all__ = [
    "DEVICES",
    "NAMED_SHAPES",
    "Device",
    "Estimate",
    "Layout",
    "ModelShape",
    "Plan",
    "Workload",
    "cpu",
    "device_named",
    "estimate",
    "plan",
    "stage_bytes",
    "stage_seconds",
    "width",
]
