"""Gradient ascent: -NLL on forget examples and nothing else (KnowUnDo)."""

FIXES = {
    "objective": "ascent",
    "retain_objective": "none",
    "retain_source": "domains",
    "regions": "none",
    "mask_rule": "conditioned",
}
PRESETS = {"learning_rate": 1e-4, "forget_weight": 1.0, "retain_weight": 1.0}
