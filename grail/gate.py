"""May a candidate be published? Numbers in, a verdict out: every bound is a check of its own, shown held or not.

An empty gate fails: a verdict that rests on no forget item or no retain item says nothing. The one exception is a batch
whose every forget item is known to the base model itself; it passes with a check that says that nothing was certified.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from grail.config import GateConfig
from grail.evaluate import EvalResult, Measured, Scope
from grail.metrics.intervals import Estimate
from grail.types import Kind

BATCH = "batch"
MAX_LOG_RATIO = 700.0
"""Above e^700 a perplexity ratio is shown as e^700; whether it holds is decided on the logarithm."""

Comparison = Literal[">=", "<="]


@dataclass(frozen=True, slots=True)
class Check:
    """`value` `comparison` `bound` held (`ok`) or not, on `n` examples of `scope`: a domain, `request <id>` or `batch`.

    Decided on the point value; the 95 % `interval` over subjects stands beside it where there are ten or more.
    """

    name: str
    scope: str
    value: float | None
    bound: float
    comparison: Comparison
    ok: bool
    n: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`ok` when every check held and there was at least one."""

    ok: bool
    checks: tuple[Check, ...]

    def of(self, scope: str) -> tuple[Check, ...]:
        """The checks of one scope."""
        return tuple(check for check in self.checks if check.scope == scope)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for rows and reports."""
        return {"ok": self.ok, "checks": [_plain(check) for check in self.checks]}


def _plain(check: Check) -> dict[str, Any]:
    return {**asdict(check), "interval": list(check.interval) if check.interval else None}


def decide(result: EvalResult, gate: GateConfig, kind: Kind = Kind.UNLEARN) -> Verdict:
    """Hold a comparison against the bounds: per domain, and per request on its own points. Pure.

    `min_paraphrase_cus` takes `min_request_cus` as its bound. An undefined or NaN value never holds. A run that
    reinstates has nothing to forget: what it taught must be there, and what was erased before must be gone.
    """
    checks = [*_whole(result, kind)]
    for domain, scope in result.domains.items():
        checks += _domain(domain, scope, gate)
    for request, scope in result.requests.items():
        checks += _request(f"request {request}", scope, gate)
    return Verdict(bool(checks) and all(check.ok for check in checks), tuple(checks))


def _whole(result: EvalResult, kind: Kind) -> Iterator[Check]:
    """Nothing asked, or nothing protected, is a failure and not a pass."""
    if kind is Kind.UNLEARN and not any(scope.forget_items for scope in result.domains.values()):
        yield Check("forget_items", BATCH, 0.0, 1.0, ">=", False, 0)
    protected = result.domains if kind is Kind.UNLEARN else result.requests
    if not any("retain" in scope.groups for scope in protected.values()):
        yield Check("retain_items", BATCH, 0.0, 1.0, ">=", False, 0)


def _domain(name: str, scope: Scope, gate: GateConfig) -> Iterator[Check]:
    yield from _uncertified(name, scope)
    forget, paraphrase = scope.groups.get("forget"), scope.groups.get("forget_paraphrase")
    if forget:
        yield at_least("min_cus", name, forget["calibrated_success"]["after"], gate.min_cus)
    if paraphrase and paraphrase["calibrated_success"]["after"].value is not None:  # else the base knows all of them
        yield at_least("min_paraphrase_cus", name, paraphrase["calibrated_success"]["after"], gate.min_request_cus)
    if forget:
        yield at_most("max_forget_gap", name, forget["forget_gap"]["after"], gate.max_forget_gap)
        yield perplexity_ratio(name, forget, gate.max_ppl_ratio)
    earlier = scope.groups.get("forget_earlier")
    if earlier and earlier["calibrated_success"]["after"].value is not None:
        yield at_least("min_earlier_cus", name, earlier["calibrated_success"]["after"], gate.min_earlier_cus)
    if "retain" in scope.groups:
        yield at_least("min_rs", name, scope.groups["retain"]["success"]["after"], gate.min_rs)


def _request(name: str, scope: Scope, gate: GateConfig) -> Iterator[Check]:
    yield from _uncertified(name, scope)
    forget, retain = scope.groups.get("forget"), scope.groups.get("retain")
    if forget:
        yield at_least("min_request_cus", name, forget["calibrated_success"]["after"], gate.min_request_cus)
        yield at_most("max_request_forget_gap", name, forget["forget_gap"]["after"], gate.max_request_forget_gap)
    if retain:
        yield at_least("min_request_rs", name, retain["success"]["after"], gate.min_request_rs)


def _uncertified(name: str, scope: Scope) -> Iterator[Check]:
    """Says plainly that nothing was certified where the base knows all that was asked to go; `n` is how many."""
    if scope.forget_items and scope.in_base == scope.forget_items:
        yield Check("certified_forget_items", name, 0.0, 0.0, ">=", True, scope.in_base)


def at_least(name: str, scope: str, found: Estimate, bound: float) -> Check:
    """A lower bound. False for None and NaN."""
    ok = found.value is not None and found.value >= bound
    return Check(name, scope, found.value, bound, ">=", ok, found.n, found.interval)


def at_most(name: str, scope: str, found: Estimate, bound: float) -> Check:
    """An upper bound. False for None and NaN."""
    ok = found.value is not None and found.value <= bound
    return Check(name, scope, found.value, bound, "<=", ok, found.n, found.interval)


def perplexity_ratio(scope: str, forget: Measured, bound: float) -> Check:
    """The forget set's perplexity lies within reference / bound .. reference * bound: |NLL - NLL_ref| <= ln(bound).

    The value shown is the ratio of the larger to the smaller, so 1 is the best.
    """
    after, reference = forget["nll"]["after"], forget["nll"]["reference"]
    if after.value is None or reference.value is None:
        return Check("max_ppl_ratio", scope, None, bound, "<=", False, after.n)
    distance = abs(after.value - reference.value)
    shown = math.exp(min(distance, MAX_LOG_RATIO))
    return Check("max_ppl_ratio", scope, shown, bound, "<=", distance <= math.log(bound), after.n)
