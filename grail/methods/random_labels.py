"""Random labels: descent on uniformly random completions of the forget examples, and nothing else (KnowUnDo)."""

FIXES = {
    "objective": "random_labels",
    "retain_objective": "none",
    "retain_source": "domains",
    "regions": "none",
    "mask_rule": "conditioned",
}
