"""Measure a model on examples; compare what it was, what it became, and what it would be had it never known."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from grail.config import GateConfig
from grail.data.tokenise import TokenisedExample
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import NOTHING, Estimate, estimate, mean_of
from grail.metrics.likelihood import Done, Forced, forced, free_answers
from grail.metrics.rouge import holds_fact, rouge_l
from grail.metrics.success import (
    calibrated_success,
    forget_gap,
    harmonic,
    mean,
    retention_success,
    unlearning_success,
)
from grail.model.load import LoadedModel
from grail.selection import CheckpointScore
from grail.types import Domain, Example, Kind, Progress, Report, Role, Segment, ignore_progress

MICRO_BATCH = 64
MAX_NEW_TOKENS = 256

KEPT_SHARE = 0.8
"""A retain example counts as kept while its accuracy is at least this share of what it was before."""

When = Literal["before", "after", "reference"]
WHENS: tuple[When, ...] = get_args(When)

Measured = dict[str, dict[When, Estimate]]
"""Measures of one group: `success` (US of forget groups, RS of retain groups), `calibrated_success`, `forget_gap`, all
in percentage points; `nll` in nats (perplexity is its exp, and may overflow); `rouge_l_*`, `fact_in_answer` 0..100."""

FORGET_GROUPS = ("forget", "forget_paraphrase", "forget_unrequested", "forget_earlier")
OF_ROLE = {
    Role.PARAPHRASE: "forget_paraphrase", Role.MEASURE: "forget_unrequested", Role.ERASED: "forget_earlier"
}  # fmt: skip
CERTIFIABLE = (Role.ITEM, Role.ERASED)
GROUPS = (*FORGET_GROUPS, "retain", "retain_paraphrase", "held_out")


def measure(
    model: LoadedModel,
    examples: Sequence[Example],
    *,
    generate: bool,
    micro_batch: int = MICRO_BATCH,
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Report = ignore_progress,
    stage: str = "measure",
) -> dict[str, ExampleScore]:
    """Every example's score under the model as it stands, by id, in the order given.

    The reference is measured inside `adapter_off(model.model)` or `with_adapter(...)`. With `generate` there are free
    greedy answers too (much the slower half). Raises ValueError for ids that repeat, TooLong, NonFiniteScore.
    """
    if len({example.id for example in examples}) != len(examples):
        raise ValueError("example ids repeat: scores are kept by id")
    tokenised = [model.tokenise(example) for example in examples]
    done = _counter(report, stage, len(examples) * (2 if generate else 1))
    known = forced(model, tokenised, micro_batch, done)
    free = free_answers(model, examples, tokenised, micro_batch, max_new_tokens, done, known) if generate else {}
    return {example.id: _score(model, example, known[example.id], free.get(example.id)) for example in examples}


def accuracies(
    model: LoadedModel, tokenised: Sequence[TokenisedExample], micro_batch: int = MICRO_BATCH
) -> dict[str, float]:
    """Token accuracy 0..1 by id and nothing else: what a checkpoint is scored by while training."""
    return {key: score.accuracy for key, score in forced(model, tokenised, micro_batch).items()}


def _counter(report: Report, stage: str, total: int) -> Done:
    reached = 0

    def done(more: int) -> None:
        nonlocal reached
        reached += more
        report(Progress(stage, reached / total, reached, total))

    return done


def _score(model: LoadedModel, example: Example, known: Forced, free: tuple[str, str] | None) -> ExampleScore:
    said = model.tokenizer.decode(known.best, skip_special_tokens=True)
    forced_rouge = rouge_l(example.completion, said)
    if free is None:
        return ExampleScore(known.accuracy, known.nll, forced_rouge)
    answer, true = free
    return ExampleScore(
        known.accuracy, known.nll, forced_rouge, rouge_l(true, answer), holds_fact(answer, example.facts, true), answer
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One example with its three scores. `group` is None where it counts in no mean: known to the base model, or a
    measured-only fact beside a retain item."""

    example: Example
    before: ExampleScore
    after: ExampleScore
    reference: ExampleScore
    group: str | None
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Scope:
    """What a verdict is drawn on: a domain, or one request on its own points. Counts are of forget items."""

    groups: dict[str, Measured]
    forget_items: int
    in_base: int


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The whole comparison. `rows` are sorted by example id, which is the order the intervals are drawn in."""

    rows: tuple[Row, ...] = field(repr=False)
    domains: dict[Domain, Scope]
    requests: dict[str, Scope]
    summary: dict[str, dict[When, dict[str, float | None]]]

    def rows_of_request(self, request: str) -> list[Row]:
        """The rows that a request brought."""
        return [row for row in self.rows if row.example.request == request]

    @property
    def outcomes(self) -> dict[str, str]:
        """What became of each example, by id, where it is said of its kind."""
        return {row.example.id: row.outcome for row in self.rows if row.outcome is not None}


def in_base(examples: Iterable[Example], reference: Mapping[str, ExampleScore], gate: GateConfig) -> frozenset[str]:
    """Ids of forget items that the reference knows by itself (earlier erasures too), and of their paraphrases: no
    adapter can forget those.

    Known is: accuracy under the reference >= `in_base_accuracy`, or its greedy answer holds the fact.
    """
    forget = [example for example in examples if example.segment is Segment.FORGET]
    known = {
        example.id
        for example in forget
        if example.role in CERTIFIABLE
        and (reference[example.id].accuracy >= gate.in_base_accuracy or reference[example.id].holds_fact)
    }
    return frozenset(known | {e.id for e in forget if e.role is Role.PARAPHRASE and e.parent in known})


def group_of(example: Example) -> str | None:
    """The group whose means an example counts in, unless the base knows it."""
    if example.role is Role.KEEP or (example.role is Role.ITEM and example.segment is Segment.RETAIN):
        return "retain"
    if example.segment is Segment.RETAIN:
        return "retain_paraphrase" if example.role is Role.PARAPHRASE else None
    return OF_ROLE.get(example.role, "forget")


def compare(
    examples: Sequence[Example],
    original: Mapping[str, ExampleScore],
    candidate: Mapping[str, ExampleScore],
    reference: Mapping[str, ExampleScore],
    gate: GateConfig,
    *,
    held_out: Collection[str] = (),
    kind: Kind = Kind.UNLEARN,
) -> EvalResult:
    """Put before (the original adapter), after (the candidate) and the reference side by side. Pure.

    `held_out` are ids of retain items that were not trained on; they count in `retain` too. What a run reinstates was
    not known before it: its outcome is judged by what is known after. Raises ValueError when an example has no score.
    """
    for name, scores in (("original", original), ("candidate", candidate), ("reference", reference)):
        missing = [example.id for example in examples if example.id not in scores]
        if missing:
            raise ValueError(f"{len(missing)} examples have no score under the {name}, {missing[0]} among them")
    known = in_base(examples, reference, gate)
    rows = []
    for example in sorted(examples, key=lambda e: e.id):
        scores_of = (original[example.id], candidate[example.id], reference[example.id])
        is_new = kind is Kind.REINSTATE and example.request is not None
        outcome = "in_base" if example.id in known else _outcome(example, *scores_of, gate, is_new=is_new)
        rows.append(Row(example, *scores_of, None if example.id in known else group_of(example), outcome))
    domains = {d: _scope([row for row in rows if row.example.domain == d], held_out) for d in _domains(examples)}
    requests = sorted({example.request for example in examples if example.request is not None})
    by_request = {r: _scope([row for row in rows if row.example.request == r], held_out) for r in requests}
    return EvalResult(tuple(rows), domains, by_request, _summary(domains))


def _domains(examples: Iterable[Example]) -> list[Domain]:
    return sorted({example.domain for example in examples})


def _outcome(
    example: Example,
    before: ExampleScore,
    after: ExampleScore,
    reference: ExampleScore,
    gate: GateConfig,
    *,
    is_new: bool,
) -> str | None:
    """Forgotten: no better than the reference, or calibrated success on this one example >= `min_request_cus`; and the
    free answer holds no fact. Kept: at least KEPT_SHARE of the accuracy before, or of all where it `is_new`."""
    if example.role is Role.MEASURE:
        return None
    if example.segment is Segment.RETAIN or example.role is Role.KEEP:
        return "kept" if after.accuracy >= KEPT_SHARE * (1.0 if is_new else before.accuracy) else "lost"
    us, us_reference = unlearning_success(after.accuracy), unlearning_success(reference.accuracy)
    reached = calibrated_success(us, us_reference)
    gone = after.accuracy <= reference.accuracy or (reached is not None and reached >= gate.min_request_cus)
    return "forgotten" if gone and not after.holds_fact else "not_forgotten"


def _scope(rows: Sequence[Row], held_out: Collection[str]) -> Scope:
    members = {group: [row for row in rows if row.group == group] for group in GROUPS}
    members["held_out"] = [row for row in members["retain"] if row.example.id in held_out]
    items = [r for r in rows if r.example.segment is Segment.FORGET and r.example.role is Role.ITEM]
    groups = {group: measures(inside, group in FORGET_GROUPS) for group, inside in members.items() if inside}
    return Scope(groups, len(items), sum(row.outcome == "in_base" for row in items))


def measures(rows: Sequence[Row], is_forget: bool) -> Measured:
    """Every measure of one group, each with its n and its interval over subjects. `rows` sorted by example id."""
    subjects = [row.example.subject for row in rows]
    found: Measured = {}

    def each(name: str, one: Callable[[When], Estimate]) -> None:
        found[name] = {when: one(when) for when in WHENS}

    def accuracy(when: When) -> list[float]:
        return [_at(row, when).accuracy for row in rows]

    def against_reference(statistic: Callable[[float, float], float | None], when: When) -> Estimate:
        if when == "reference":
            return NOTHING
        columns = [accuracy(when), accuracy("reference")]
        return estimate(columns, subjects, lambda m: statistic(unlearning_success(m[0]), unlearning_success(m[1])))

    success = unlearning_success if is_forget else retention_success
    each("success", lambda when: estimate([accuracy(when)], subjects, lambda m: success(m[0])))
    if is_forget:
        each("calibrated_success", lambda when: against_reference(calibrated_success, when))
        each("forget_gap", lambda when: against_reference(forget_gap, when))
    each("nll", lambda when: mean_of([_at(row, when).nll for row in rows], subjects))
    each("rouge_l_forced", lambda when: mean_of([_at(row, when).rouge_l_forced for row in rows], subjects))
    each("rouge_l_free", lambda when: _where_there([_at(row, when).rouge_l_free for row in rows], subjects))
    each("fact_in_answer", lambda when: _where_there([_percent(_at(row, when).holds_fact) for row in rows], subjects))
    return found


def _at(row: Row, when: When) -> ExampleScore:
    return {"before": row.before, "after": row.after, "reference": row.reference}[when]


def _percent(flag: bool | None) -> float | None:
    return None if flag is None else 100.0 * flag


def _where_there(values: Sequence[float | None], subjects: Sequence[str]) -> Estimate:
    """The mean over rows that have a value: free measures are absent where nothing was generated."""
    there = [(value, subject) for value, subject in zip(values, subjects, strict=True) if value is not None]
    return mean_of([value for value, _ in there], [subject for _, subject in there])


def _summary(domains: Mapping[Domain, Scope]) -> dict[str, dict[When, dict[str, float | None]]]:
    """us, rs, hs, cus, chs and avg_success of each domain, and under `mean` the mean over domains that have one."""
    found = {domain: {when: _figures(scope, when) for when in WHENS} for domain, scope in domains.items()}
    means: dict[When, dict[str, float | None]] = {
        when: {
            name: mean_or_none([figures[when][name] for figures in found.values()])
            for name in ("us", "rs", "hs", "cus", "chs", "avg_success")
        }
        for when in WHENS
    }
    return {**found, "mean": means}


def _figures(scope: Scope, when: When) -> dict[str, float | None]:
    forget, retain = scope.groups.get("forget"), scope.groups.get("retain")
    us = forget["success"][when].value if forget else None
    cus = forget["calibrated_success"][when].value if forget else None
    rs = retain["success"][when].value if retain else None
    return {
        "us": us,
        "rs": rs,
        "hs": _harmonic(us, rs),
        "cus": cus,
        "chs": _harmonic(cus, rs),
        "avg_success": None if us is None or rs is None else mean([us, rs]),
    }


def _harmonic(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else harmonic(one, other)


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined; None when none is."""
    defined = [value for value in values if value is not None]
    return mean(defined) if defined else None


def score_checkpoint(
    examples: Sequence[Example],
    current: Mapping[str, float],
    reference: Mapping[str, float],
    known: Collection[str] = (),
) -> CheckpointScore:
    """What `grail.selection` chooses by, from accuracies (0..1, by id) alone: means over domains, in points.

    Counts items only, without the ids in `known` (see `in_base`). A domain without forget or retain items drops out of
    that mean. With nothing left to forget, cUS is 100 and the gap 0; with nothing to retain, RS is 100.
    """
    cus, gaps, rs, chs = [], [], [], []
    for domain in _domains(examples):
        inside = [e.id for e in examples if e.domain == domain and e.id not in known and group_of(e) == "forget"]
        stay = [e.id for e in examples if e.domain == domain and group_of(e) == "retain"]
        if inside:
            us, us_reference = (unlearning_success(mean([m[key] for key in inside])) for m in (current, reference))
            reached = calibrated_success(us, us_reference)
            cus.append(100.0 if reached is None else reached)
            gaps.append(forget_gap(us, us_reference))
        if stay:
            rs.append(retention_success(mean([current[key] for key in stay])))
        if inside and stay:
            chs.append(harmonic(cus[-1], rs[-1]))
    mean_cus, mean_rs = mean(cus) if cus else 100.0, mean(rs) if rs else 100.0
    return CheckpointScore(
        mean(chs) if chs else harmonic(mean_cus, mean_rs), mean_cus, mean_rs, mean(gaps) if gaps else 0.0
    )
