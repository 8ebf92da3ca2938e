"""Ascent + descent, out-of-distribution: -NLL on forget examples, +NLL on general instruction data (KnowUnDo)."""

FIXES = {
    "objective": "ascent",
    "retain_objective": "descent",
    "retain_source": "general",
    "regions": "none",
    "mask_rule": "conditioned",
}
PRESETS = {"learning_rate": 1e-3, "forget_weight": 1.0, "retain_weight": 1.0}
