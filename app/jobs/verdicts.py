"""What went wrong at the gate, and which settings to try next. Pure: a verdict in, settings out.

A verdict is `{"ok": bool, "checks": [{"name", "scope", "value", "bound", "comparison", "ok", ...}]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

MAX_SEED = 2**31 - 1
CEILINGS: dict[str, float] = {"steps": 100_000, "passes": 1e4, "retain_weight": 1e3}
LOWEST_RATE = 1e-9


class Trouble(StrEnum):
    """What a failed check means."""

    REMEMBERED = "remembered"  # requested knowledge is still there
    LOST = "lost"  # what was to stay is gone
    SCARRED = "scarred"  # forgotten further than a model that never knew: anyone can see it
    STRANGE = "strange"  # perplexity far from the reference's: below it is still known, above it is gibberish
    OTHER = "other"


WORDS: Mapping[str, Trouble] = {
    "cus": Trouble.REMEMBERED,
    "rs": Trouble.LOST,
    "gap": Trouble.SCARRED,
    "ppl": Trouble.STRANGE,
    "perplexity": Trouble.STRANGE,
}
"""By a word in the name of the check (`min_request_cus`, `max_forget_gap`, ...)."""


def trouble_of(check_name: str) -> Trouble:
    """What it means when the check of that name fails."""
    return next((WORDS[word] for word in check_name.lower().split("_") if word in WORDS), Trouble.OTHER)


def troubles(verdict: Mapping[str, Any]) -> set[Trouble]:
    """What the failed checks mean, together."""
    return {trouble_of(str(check.get("name", ""))) for check in verdict.get("checks", []) if not check.get("ok")}


def next_seed(settings: Mapping[str, Any]) -> int:
    """Another seed for another try."""
    return (int(settings.get("seed", 0)) + 1) % (MAX_SEED + 1)


def changed_settings(settings: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """The settings (UnlearnConfig fields) that the next try changes; always another seed.

    Requested knowledge still there: half as many steps again, or half as many passes again where `steps` is 0 and
    follows from them. What was to stay is lost: twice the retain weight.
    Forgotten too far, or gibberish: half the learning rate. (A perplexity far from the reference's is gibberish only
    where the knowledge is gone.)
    """
    found = troubles(verdict)
    changes: dict[str, Any] = {"seed": next_seed(settings)}
    if Trouble.REMEMBERED in found:
        changes |= _longer(settings)
    if Trouble.LOST in found:
        weight = float(settings["retain_weight"])
        changes["retain_weight"] = min(weight * 2 or 1.0, CEILINGS["retain_weight"])
    if Trouble.SCARRED in found or (Trouble.STRANGE in found and Trouble.REMEMBERED not in found):
        changes["learning_rate"] = max(float(settings["learning_rate"]) / 2, LOWEST_RATE)
    return changes


def _longer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Half as much training again."""
    steps = int(settings["steps"])
    if steps:
        return {"steps": int(min(max(steps * 3 // 2, steps + 1), CEILINGS["steps"]))}
    return {"passes": min(1.5 * float(settings["passes"]), CEILINGS["passes"])}
