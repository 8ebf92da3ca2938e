"""The report document (`grail.report/2`): every figure that a verdict rests on, and not one word of what was asked.

Every field is picked by name: whatever else the caller's mappings hold stays out. No prompt, completion, fact, answer
or subject's name is in it. Figures are not rounded, so that an auditor can recompute means and intervals from
`examples`, as `grail.metrics.intervals` lays down.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from grail.config import UnlearnConfig
from grail.evaluate import WHENS, EvalResult, Measured, Row, Scope
from grail.gate import Verdict
from grail.metrics.ability import Ability, ability_change
from grail.metrics.base import ExampleScore
from grail.metrics.intervals import FEW_SUBJECTS, Estimate
from grail.metrics.success import perplexity
from grail.model.load import LoadedModel
from grail.train import TrainLog
from grail.types import Role, Segment

SCHEMA = "grail.report/2"
ADAPTER_OFF = "adapter off"
ENDLESS = "the interval is not finite"

JOB = ("id", "served_model", "created_at", "started_at", "finished_at", "attempts", "timings_seconds")
REQUEST = ("id", "domain", "received_at", "due_at", "legal_basis")
ADAPTER = ("version", "name", "digest")
ENVIRONMENT = ("python", "torch", "transformers", "peft", "platform", "threads", "precision", "version")
REGIONS = ("score", "regions", "k_ur", "k_rr", "entries", "examples")


def document(
    *,
    job: Mapping[str, Any],
    requests: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any],
    config: UnlearnConfig,
    result: EvalResult,
    verdict: Verdict,
    regions: Mapping[str, Any] | None,
    log: TrainLog | None,
    environment: Mapping[str, Any],
    held_out: Collection[str] = (),
    limits: Iterable[str] = (),
    controls: Sequence[Mapping[str, Any]] = (),
    ability: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report as plain values, ready for canonical JSON. Pure.

    `job`, `requests` and `model` hold at least the keys named above (JOB, REQUEST; base_path_name, base_digest, note,
    start_adapter, candidate_adapter, reference); others are ignored. `regions` is `MaskSet.summary`, None without
    masks, with those of the runs before under `earlier` where there were several; `limits` are further sentences;
    `controls` are runs with other regions (`regions`, and per domain us, rs, cus and forget_gap), `ability` is
    what `general_ability` makes, None where nothing was to be asked.
    Raises KeyError for a missing key.
    """
    reference = str(model["reference"])
    earlier = [_regions(found) for found in (regions or {}).get("earlier", ())]
    return {
        "schema": SCHEMA,
        "job": {key: job[key] for key in JOB},
        "requests": [_request(request, result, verdict) for request in requests],
        "model": _model(model),
        "method": _settings(config),
        "gate": verdict.as_dict(),
        "data": {domain: _data(rows_of(result, domain), held_out) for domain in result.domains},
        "metrics": {
            domain: {group: _measures(found) for group, found in scope.groups.items()}
            for domain, scope in result.domains.items()
        },
        "summary": result.summary,
        "controls": [dict(control) for control in controls],
        "general_ability": None if ability is None else dict(ability),
        "regions": _regions(regions),
        **({"earlier_regions": earlier} if earlier else {}),
        "training": _training(log),
        "examples": [_example(row, str(job["id"])) for row in result.rows],
        "environment": {key: environment[key] for key in ENVIRONMENT},
        "limits": [
            *what_was_not_shown(result, reference, model.get("note"), has_ability=_is_measured(ability)), *limits
        ],
        "replicas_not_acknowledged": [],
    }


def _settings(config: UnlearnConfig) -> dict[str, Any]:
    """Every setting of the run, one value each; options of the method and the objective as `option_...`."""
    settings = config.as_dict()
    options = settings.pop("options")
    return {**settings, **{f"option_{name}": value for name, value in sorted(options.items())}}


def rows_of(result: EvalResult, domain: str) -> list[Row]:
    """The rows of one domain."""
    return [row for row in result.rows if row.example.domain == domain]


def blind(subject: str, salt: str) -> str:
    """A subject's id in a report: the same within it, another in the next. `salt` is the job's id.

    Not a secret: whoever has the report and a name to try can find its id. It keeps names out of sight, no more.
    """
    return hashlib.sha256((salt + subject).encode()).hexdigest()[:12]


def cell(found: Estimate, *, is_nll: bool = False) -> dict[str, Any]:
    """One figure with its n, subjects and interval. A mean NLL is shown as perplexity, `inf` where exp overflows."""
    value = perplexity(found.value) if is_nll and found.value is not None else found.value
    ends = [perplexity(end) if is_nll else end for end in found.interval or ()]
    endless = None in ends
    return {
        "value": value,
        "text": "inf" if value is None and found.value is not None else None,
        "n": found.n,
        "subjects": found.subjects,
        "interval": None if endless or not ends else ends,
        "note": ENDLESS if endless else found.note,
    }


def _measures(found: Measured) -> dict[str, Any]:
    return {
        "perplexity" if name == "nll" else name: {when: cell(by[when], is_nll=name == "nll") for when in WHENS}
        for name, by in found.items()
    }


def _request(request: Mapping[str, Any], result: EvalResult, verdict: Verdict) -> dict[str, Any]:
    key = str(request["id"])
    rows = result.rows_of_request(key)
    scope = result.requests.get(key, Scope({}, 0, 0))
    return {
        **{name: request[name] for name in REQUEST},
        "forget_items": scope.forget_items,
        "retain_items": _count(rows, Segment.RETAIN, Role.ITEM),
        "probes": sum(row.example.role is not Role.ITEM for row in rows),
        "in_base": scope.in_base,
        "outcome": request_outcome(rows),
        "metrics": request_metrics(scope),
        "checks": [check for check in verdict.as_dict()["checks"] if check["scope"] == f"request {key}"],
    }


def request_metrics(scope: Scope) -> dict[str, float | None]:
    """A request's own figures after the run, in percentage points; None where there is nothing to measure."""
    forget, retain = scope.groups.get("forget"), scope.groups.get("retain")
    return {
        "cus": forget["calibrated_success"]["after"].value if forget else None,
        "us": forget["success"]["after"].value if forget else None,
        "us_ref": forget["success"]["reference"].value if forget else None,
        "forget_gap": forget["forget_gap"]["after"].value if forget else None,
        "rs": retain["success"]["after"].value if retain else None,
    }


def request_outcome(rows: Iterable[Row]) -> str:
    """A request in a word or two: what became of its forget items. Items that the base knows are not forgotten."""
    found = [r.outcome for r in rows if r.example.segment is Segment.FORGET and r.example.role is Role.ITEM]
    if not found:
        return "nothing to forget"
    if all(outcome == "in_base" for outcome in found):
        return "in base"
    if all(outcome == "forgotten" for outcome in found):
        return "forgotten"
    return "forgotten in part" if "forgotten" in found else "not forgotten"


def _model(model: Mapping[str, Any]) -> dict[str, Any]:
    def adapter(known: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if known is None else {key: known[key] for key in ADAPTER}

    return {
        "base_path_name": Path(str(model["base_path_name"])).name,
        "base_digest": model["base_digest"],
        "note": model.get("note"),
        "start_adapter": adapter(model["start_adapter"]),
        "candidate_adapter": adapter(model["candidate_adapter"]),
        "reference": model["reference"],
    }


def _count(rows: Iterable[Row], segment: Segment, role: Role) -> int:
    return sum(row.example.segment is segment and row.example.role is role for row in rows)


def _data(rows: Sequence[Row], held_out: Collection[str]) -> dict[str, int]:
    def of(role: Role) -> int:
        return sum(row.example.role is role for row in rows)

    items = [row for row in rows if row.example.role is Role.ITEM]
    return {
        "forget_items": _count(rows, Segment.FORGET, Role.ITEM),
        "forget_items_in_base": sum(row.outcome == "in_base" for row in items),
        "retain_items": _count(rows, Segment.RETAIN, Role.ITEM),
        "paraphrases": of(Role.PARAPHRASE),
        "keep": of(Role.KEEP),
        "measure": of(Role.MEASURE),
        "held_out": sum(row.example.id in held_out for row in items),
        "erased_earlier": of(Role.ERASED),
    }


def _regions(summary: Mapping[str, Any] | None) -> dict[str, Any]:
    if summary is None:
        nothing = {"count": 0, "share": 0.0}
        return {"op_ur": nothing, "op_rr": dict(nothing), "jaccard": {"labels": [], "whole": [], "layers": []}}
    jaccard = summary["jaccard"]
    return {
        "op_ur": dict(summary["op_ur"]),
        "op_rr": dict(summary["op_rr"]),
        "jaccard": {**jaccard, "labels": [label.replace("/", " ") for label in jaccard["labels"]]},
        **{key: summary[key] for key in REGIONS if key in summary},
    }


def _training(log: TrainLog | None) -> dict[str, Any]:
    if log is None:
        return {
            "steps": 0, "planned_steps": 0, "kept_step": 0, "stopped_early": None, "losses": [], "checkpoints": []
        }  # fmt: skip
    return {
        "steps": log.steps,
        "planned_steps": log.planned_steps,
        "kept_step": log.kept_step,
        "stopped_early": log.stopped_early,
        "losses": [dict(entry) for entry in log.losses],
        "checkpoints": [dict(entry) for entry in log.checkpoints],
    }


def _example(row: Row, salt: str) -> dict[str, Any]:
    example = row.example
    return {
        "id": example.id,
        "request": example.request,
        "domain": example.domain,
        "segment": str(example.segment),
        "role": str(example.role),
        "subject_id": blind(example.subject, salt),
        "before": _figures(row.before),
        "after": _figures(row.after),
        "reference": _figures(row.reference),
        "outcome": row.outcome,
    }


def _figures(score: ExampleScore) -> dict[str, Any]:
    return {
        "accuracy": score.accuracy,
        "nll": score.nll,
        "rouge_l_forced": score.rouge_l_forced,
        "rouge_l_free": score.rouge_l_free,
        "fact": score.holds_fact,
    }


def general_ability(
    file_digest: str | None,
    questions: int,
    seed: int,
    before: Ability | None,
    after: Ability | None,
    not_measured: str | None = None,
) -> dict[str, Any]:
    """What a report says of general ability: the share of right choices before and after over the same sample of a
    file's `questions`, and their paired difference; or why there is none."""
    change = None if before is None or after is None else ability_change({"": before}, {"": after})[""]
    return {
        "file_digest": file_digest,
        "questions": questions,
        "drawn": 0 if after is None else len(after.answers),
        "seed": seed,
        "before": None if before is None else cell(before.accuracy),
        "after": None if after is None else cell(after.accuracy),
        "change": None if change is None else cell(change.accuracy),
        "not_measured": not_measured,
    }


def _is_measured(ability: Mapping[str, Any] | None) -> bool:
    return ability is not None and ability["after"] is not None


def what_was_not_shown(
    result: EvalResult, reference: str, note: str | None, *, has_ability: bool = False
) -> list[str]:
    """The limits of a report in plain sentences."""
    known = sum(scope.in_base for scope in result.domains.values())
    found = [scope.groups for scope in result.domains.values()]
    small = any(m["success"]["after"].subjects < FEW_SUBJECTS for groups in found for m in groups.values())
    sayings = (
        (True, "The measures show what these questions bring out; other questions may bring out more."),
        (True, "Not tested: sampled answers, attempts to teach the facts again, and the model after quantisation."),
        (not has_ability, "General ability (tasks beside the facts that are to stay) was not measured."),
        (True, "The base model was not changed: what it knows without the adapter stays known."),
        (True, _reference_sentence(reference)),
        (bool(note), f"About the base model: {note}."),
        (known > 0, f"Known to the base model itself, so left out and not certified: {known} of the forget items."),
        (small, f"Some groups have fewer than {FEW_SUBJECTS} subjects (small sample): they carry no interval."),
        (not _any_free(result), "No free answers were generated: whether a fact still appears in one is not known."),
        (
            not any("forget_earlier" in groups for groups in found),
            "Whether what was erased before this run is still gone was not measured: nothing of it was drawn or kept.",
        ),
        (
            not any("forget_paraphrase" in groups for groups in found),
            "No forget item came with a question in other words: whether other wording brings it out is not known.",
        ),
        (
            any(not row.example.prompt for row in result.rows),
            "Passages without a question were continued from their first quarter; only the rest was compared.",
        ),
        (True, "Subject ids are blinded, not secret: whoever tries the right name can find its id."),
    )
    return [sentence for applies, sentence in sayings if applies]


def _reference_sentence(reference: str) -> str:
    if reference == ADAPTER_OFF:
        return (
            "The model that never knew is the base model with its adapter off: a stand-in for one that was taught only "
            "what is to stay."
        )
    return f"The model that never knew is a registered adapter taught only what is to stay ({reference})."


def _any_free(result: EvalResult) -> bool:
    return any(row.after.holds_fact is not None for row in result.rows)


def environment(model: LoadedModel) -> dict[str, Any]:
    """Versions and hardware kind that figures may depend on; nothing that names a machine."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "peft")},
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "precision": "bf16" if model.precision is torch.bfloat16 else "fp32",
        "version": _version("grail-server"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
