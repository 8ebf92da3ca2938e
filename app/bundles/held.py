"""Which retain items a run held out, from its report alone.

A report says how many, not which: they follow from the seed, the ids and the subjects, all of which it names
(`grail.run.held_out`, which this repeats without the learning stack; a test compares the two). Where the counts do not
agree, nothing is guessed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any


def held_out_of(document: Mapping[str, Any]) -> frozenset[str]:
    """Ids of retain items that were not trained on. Raises ValueError when they are not as many as the report says.
    Pure."""
    method, held = document["method"], set[str]()
    items = [one for one in document["examples"] if one["role"] == "item" and one["outcome"] != "in_base"]
    for domain, data in document["data"].items():
        if not data["held_out"]:
            continue
        retain = [one for one in items if one["domain"] == domain and one["segment"] == "retain"]
        standing = [one for one in retain if one["request"] is None]
        wanted = math.ceil(method["holdout_share"] * len(retain))
        chosen = _spread(standing or retain, method["seed"])[:wanted]
        if len(chosen) != data["held_out"]:
            raise ValueError(f"{data['held_out']} items of {domain} were held out, and the report leads to others")
        held.update(chosen)
    return frozenset(held)


def _spread(items: Sequence[Mapping[str, Any]], seed: int) -> list[str]:
    """Ids in a fixed pseudo-random order that takes every subject in turn."""
    turns: dict[str, count[int]] = {}
    ordered = sorted(items, key=lambda one: hashlib.sha256(f"{seed}:{one['id']}".encode()).digest())
    turn_of = {one["id"]: next(turns.setdefault(one["subject_id"], count())) for one in ordered}
    return [one["id"] for one in sorted(ordered, key=lambda one: turn_of[one["id"]])]
