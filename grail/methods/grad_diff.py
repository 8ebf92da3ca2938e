"""Ascent + descent, in-distribution: -NLL on forget, +NLL on retain examples of the same domains (KnowUnDo)."""

FIXES = {
    "objective": "ascent",
    "retain_objective": "descent",
    "retain_source": "domains",
    "regions": "none",
    "mask_rule": "conditioned",
}
PRESETS = {"learning_rate": 1e-3, "forget_weight": 1.0, "retain_weight": 1.0}
