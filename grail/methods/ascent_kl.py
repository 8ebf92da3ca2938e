"""Ascent + KL, in-distribution: -NLL on forget examples, KL(original || current) on retain examples (KnowUnDo)."""

FIXES = {
    "objective": "ascent",
    "retain_objective": "kl",
    "retain_source": "domains",
    "regions": "none",
    "mask_rule": "conditioned",
}
PRESETS = {"learning_rate": 1e-3, "forget_weight": 1.0, "retain_weight": 1.0}
