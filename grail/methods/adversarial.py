"""Adversarial samples: descent on the best wrong token of the forget examples, and nothing else (KnowUnDo)."""

FIXES = {
    "objective": "adversarial",
    "retain_objective": "none",
    "retain_source": "domains",
    "regions": "none",
    "mask_rule": "conditioned",
}
