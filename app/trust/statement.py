"""in-toto statements (v1): about an adapter version how it was made, what was measured and what was erased; and about
the
files of a report's bundle. Digests, ids, numbers and states; never a text of a request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from app.trust.verify import REPORT_PREDICATE, STATEMENT_TYPE

PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:grail:build:unlearn:1"
EVAL_RESULT = "urn:grail:predicate:eval-result:1"
ERASURE = "urn:grail:predicate:erasure:1"
SELF = "self_attested"

Json = dict[str, Any]


def statement(subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any], at: datetime) -> Json:
    """A statement about files (name -> SHA-256 in hex), in order of name. Raises ValueError for no file, a digest
    that is
    none, or a time without its zone."""
    if not subjects or any(len(digest) != 64 or set(digest) - set("0123456789abcdef") for digest in subjects.values()):
        raise ValueError("a statement is about files, each with its SHA-256 in hex")
    if at.tzinfo is None:
        raise ValueError("the time of the issue needs its zone")
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": predicate_type,
        "predicate": {**predicate, "issued_at": at.isoformat()},
    }


def about_report(files: Mapping[str, str], *, report_id: str, job_id: str, log: str, at: datetime) -> Json:
    """Of a bundle's files: the statement that the log's seal commits to."""
    return statement(files, REPORT_PREDICATE, {"report_id": report_id, "job_id": job_id, "log": log}, at)


def provenance(
    files: Mapping[str, str],
    *,
    builder: str,
    job_id: str,
    settings: Mapping[str, Any],
    made_from: Sequence[tuple[str, str]],
    versions: Mapping[str, str],
    started_at: datetime,
    finished_at: datetime,
) -> Json:
    """SLSA provenance v1 of an adapter version. `settings` are those of the run; `made_from` names what it was made
    from
    (base model, adapter before, masks) with SHA-256 each; `versions` are those of the software."""
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"settings": dict(settings)},
            "internalParameters": {},
            "resolvedDependencies": [{"name": name, "digest": {"sha256": digest}} for name, digest in made_from],
        },
        "runDetails": {
            "builder": {"id": builder, "version": dict(versions)},
            "metadata": {
                "invocationId": job_id,
                "startedOn": started_at.isoformat(),
                "finishedOn": finished_at.isoformat(),
            },
        },
    }
    return statement(files, PROVENANCE, predicate, finished_at)


def eval_result(files: Mapping[str, str], report: Mapping[str, Any], report_digest: str, at: datetime) -> Json:
    """What was measured of an adapter version: each check of the report's gate as metric, comparator, threshold, value,
    interval and n (the shape of in-toto's proposal of that name, which is not settled, hence a type of our own)."""
    results = [
        {
            "metric": check["name"],
            "scope": check["scope"],
            "comparator": check["comparison"],
            "threshold": check["bound"],
            "value": check["value"],
            "interval": check["interval"],
            "sampleSize": check["n"],
            "passed": check["ok"],
        }
        for check in report["gate"]["checks"]
    ]
    predicate = {
        "passed": report["gate"]["ok"],
        "results": results,
        "assuranceLevel": SELF,
        "report": {"digest": {"sha256": report_digest}, "schema": report["schema"]},
    }
    return statement(files, EVAL_RESULT, predicate, at)


def erasure(
    files: Mapping[str, str],
    *,
    requests: Mapping[str, str],
    replaces: str | None,
    report_digest: str,
    at: datetime,
) -> Json:
    """What an adapter version no longer holds: `requests` (id -> outcome), the digest of the version that it
    `replaces`,
    and the report that shows it."""
    predicate = {
        "requests": [{"id": key, "outcome": requests[key]} for key in sorted(requests)],
        "replaces": replaces,
        "report": {"digest": {"sha256": report_digest}},
        "assuranceLevel": SELF,
    }
    return statement(files, ERASURE, predicate, at)
