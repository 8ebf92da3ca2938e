"""Ascent + KL, out-of-distribution: -NLL on forget examples, KL(original || current) on general data (KnowUnDo)."""

FIXES = {
    "objective": "ascent",
    "retain_objective": "kl",
    "retain_source": "general",
    "regions": "none",
    "mask_rule": "conditioned",
}
PRESETS = {"learning_rate": 1e-3, "forget_weight": 1.0, "retain_weight": 1.0}
