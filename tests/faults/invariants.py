"""What must be true once everything has come to rest, whatever went wrong before. Each function names what is broken.

Read from the rows with SQL and from the files, not with the service's own functions: those may be what is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.adapters.files import VersionDamaged, verify_version
from app.lifecycle import JOB_MOVES, REQUEST_MOVES, JobState, RequestState
from tests.faults.callers import CANARY
from tests.faults.deeds import DONE, IN_DOUBT, REFUSED, Deed
from tests.faults.ground import Ground

STAYS = {
    "job.claimed", "request.extended", "request.held", "request.reinstatement_asked", "request.linked",
    "request.validated",
}  # fmt: skip
"""Leaves that may tell of a change that leaves the state as it was: one on hold may get another kind and reason."""


def broken(
    ground: Ground,
    model: str,
    accepted: Mapping[str, str],
    tried: Iterable[str],
    deeds: Mapping[str, Deed] | None = None,
) -> list[str]:
    """Everything that is broken. `accepted` maps a client's reference to the id that it was answered, `tried` are all
    references that were sent, `deeds` what people did about them. The model is at rest: nothing of it is open."""
    return [
        *lost(ground, model, accepted, tried, deeds or {}),
        *decisions(ground, model, deeds or {}),
        *approvals(ground, model),
        *versions(ground, model),
        *trail(ground, model),
        *log(ground),
        *files(ground),
        *texts(ground),
    ]


def lost(
    ground: Ground, model: str, accepted: Mapping[str, str], tried: Iterable[str], deeds: Mapping[str, Deed]
) -> list[str]:
    """Every accepted request is there once, in one state, at its end, which is one that people left open; nothing was
    made up."""
    rows = ground.rows(
        "SELECT r.id::text, r.client_reference, r.state::text, r.completed_at FROM request r "
        "JOIN served_model m ON m.id = r.served_model_id WHERE m.name = %s", model,
    )  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["client_reference"], []).append(row)
    said = [f"{name} was accepted as {at} and is not there" for name, at in accepted.items() if name not in found]
    for name, there in found.items():
        if len(there) > 1:
            said.append(f"{name} is there {len(there)} times")
        if name in accepted and accepted[name] not in {row["id"] for row in there}:
            said.append(f"{name} was answered another id than it has")
        ends = deeds.get(name, UNTOUCHED).ends
        said += [f"request {row['id']} ended as {row['state']}" for row in there if row["state"] not in ends]
    strangers = set(found) - set(tried)
    return said + [f"{name} was never sent" for name in strangers]


def decisions(ground: Ground, model: str, deeds: Mapping[str, Deed]) -> list[str]:
    """What somebody was told is done was done, once; what they were told is refused was not; nobody is left on hold,
    and what was withdrawn or refused is in no version."""
    rows = ground.rows(
        "SELECT r.id::text, r.client_reference, r.held_since, r.extended_at, r.state::text, "
        "ARRAY(SELECT event::text FROM audit a WHERE a.subject_id = r.id::text) AS events, "
        "(SELECT count(*) FROM batch_member b JOIN job j ON j.batch_id = b.batch_id "
        "WHERE b.request_id = r.id AND j.state = 'published') AS taught "
        "FROM request r JOIN served_model m ON m.id = r.served_model_id WHERE m.name = %s", model,
    )  # fmt: skip
    said = []
    for row in rows:
        name, became = f"request {row['id']}", deeds.get(row["client_reference"], UNTOUCHED).became
        for deed, word in WORDS.items():
            times = row["events"].count(f"request.{word}")
            once = {DONE: (1,), REFUSED: (0,), IN_DOUBT: (0, 1)}.get(became.get(deed, REFUSED), ())
            if times not in once and not (deed == "hold" and times > 1 and became.get(deed) == DONE):
                said.append(f"{name}: {deed} was {became.get(deed, 'not asked for')}, the trail has it {times} times")
        if row["held_since"] is not None:
            said.append(f"{name} is on hold still")
        if (row["extended_at"] is not None) != ("request.extended" in row["events"]):
            said.append(f"{name}: the row and the trail differ about an extension")
        if row["taught"] != (row["state"] == "published"):
            said.append(f"{name} is {row['state']} and in {row['taught']} versions")
    return said


UNTOUCHED = Deed()
WORDS = {"withdraw": "withdrawn", "refuse": "refused", "extend": "extended", "hold": "held", "resume": "resumed"}
"""How the trail calls each deed. A hold whose answer never came may be repeated: it gets its reason once more."""


def approvals(ground: Ground, model: str) -> list[str]:
    """Where an officer has to let candidates through, each that is published was let through once, and no other."""
    rows = ground.rows(
        "SELECT j.id::text, j.state::text, (m.policy ->> 'require_approval')::boolean AS wanted, "
        "(SELECT count(*) FROM audit a WHERE a.subject_id = j.id::text AND a.event = 'job.approved') AS times "
        "FROM job j JOIN served_model m ON m.id = j.served_model_id WHERE m.name = %s", model,
    )  # fmt: skip
    return [
        f"job {row['id']} is {row['state']} and was approved {row['times']} times"
        for row in rows
        if row["times"] != (bool(row["wanted"]) and row["state"] == "published")
    ]


def versions(ground: Ground, model: str) -> list[str]:
    """One published version a job; numbers, parents and alias in one line; the active one whole on the disk."""
    said = []
    jobs = ground.rows(
        "SELECT j.id::text, j.state::text, j.candidate_adapter_id, j.start_adapter_id, a.state::text AS adapter, "
        "a.version, a.parent_id, a.job_id::text AS maker, "
        "(SELECT count(*) FROM adapter x WHERE x.job_id = j.id) AS made, "
        "(SELECT count(*) FROM report r WHERE r.job_id = j.id) AS reports "
        "FROM job j JOIN served_model m ON m.id = j.served_model_id "
        "LEFT JOIN adapter a ON a.id = j.candidate_adapter_id WHERE m.name = %s ORDER BY j.id", model,
    )  # fmt: skip
    for job in jobs:
        name = f"job {job['id']}"
        if job["state"] == "published":
            if job["made"] != 1 or job["maker"] != job["id"] or job["adapter"] not in {"published", "superseded"}:
                said.append(f"{name} is published with {job['made']} versions, its candidate is {job['adapter']}")
            if job["parent_id"] != job["start_adapter_id"]:
                said.append(f"{name}'s version has another parent than the job started from")
        elif job["adapter"] in {"published", "superseded"}:
            said.append(f"{name} is {job['state']}, its version {job['adapter']}")
        if job["state"] != "failed" and job["reports"] != (job["state"] in {"published", "rejected"}):
            said.append(f"{name} is {job['state']} and has {job['reports']} reports")
    return said + _alias(ground, model)


def _alias(ground: Ground, model: str) -> list[str]:
    rows = ground.rows(
        "SELECT a.id, a.version, a.state::text, a.directory, a.manifest, a.parent_id, m.active_adapter_id, "
        "m.alias_revision FROM adapter a JOIN served_model m ON m.id = a.served_model_id "
        "WHERE m.name = %s ORDER BY a.version", model,
    )  # fmt: skip
    said = []
    served = [row for row in rows if row["state"] in {"published", "superseded"}]
    newest = served[-1]
    if newest["id"] != newest["active_adapter_id"] or newest["state"] != "published":
        said.append(f"the alias of {model} is not at its newest version {newest['version']}")
    if [row["state"] for row in served[:-1]] != ["superseded"] * (len(served) - 1):
        said.append(f"older versions of {model} are {[row['state'] for row in served[:-1]]}")
    if newest["alias_revision"] != len(served) - 1:
        said.append(f"the alias of {model} moved {newest['alias_revision']} times for {len(served) - 1} versions")
    for before, after in pairwise(served):
        if after["parent_id"] != before["id"]:
            said.append(f"version {after['version']} of {model} does not stand on {before['version']}")
    for row in rows:
        try:
            verify_version(Path(row["directory"]), row["manifest"])
        except VersionDamaged as error:
            said.append(f"version {row['version']} of {model} ({row['state']}): {error.detail}")
    return said


def trail(ground: Ground, model: str) -> list[str]:
    """Each change has one leaf, in a legal order, that ends where the row stands; events tell the same."""
    said: list[str] = []
    for noun, moves, first in (
        ("request", REQUEST_MOVES, RequestState.RECEIVED), ("job", JOB_MOVES, JobState.QUEUED),
    ):  # fmt: skip
        legal = {(str(a), str(b)) for (a, _), b in moves.items()}
        rows = ground.rows(
            f"SELECT x.id::text, x.state::text FROM {noun} x JOIN served_model m ON m.id = x.served_model_id "  # noqa: S608
            "WHERE m.name = %s ORDER BY x.id", model,
        )  # fmt: skip
        for row in rows:
            leaves = _leaves(ground, noun, row["id"])
            said += [f"{noun} {row['id']}: {what}" for what in _order(leaves, str(first), row["state"], legal)]
            told = [one["kind"] for one in ground.rows(
                f"SELECT kind FROM event WHERE {noun}_id = %s AND kind <> 'job.progress' ORDER BY id", row["id"]  # noqa: S608
            )]  # fmt: skip
            if told != [kind for kind, _ in leaves]:
                said.append(f"{noun} {row['id']}: the trail has {[k for k, _ in leaves]}, events have {told}")
            if noun == "job":
                said += _tokens(ground, row["id"], leaves)
    return said


def _leaves(ground: Ground, noun: str, subject: str) -> list[tuple[str, dict[str, Any]]]:
    rows = ground.rows(
        "SELECT event, leaf FROM audit WHERE subject_id = %s OR "
        "(event = 'batch.made' AND convert_from(leaf, 'UTF8')::jsonb -> 'fields' ->> 'job_id' = %s) ORDER BY id",
        subject, subject,
    )  # fmt: skip
    found = []
    for row in rows:
        fields = json.loads(bytes(row["leaf"]))["fields"]
        made = row["event"] == "batch.made"
        kind = "job.queued" if made else row["event"]
        if kind.startswith(f"{noun}."):
            found.append((kind, {**fields, "state": "queued"} if made else fields))
    return found


def _order(
    leaves: list[tuple[str, dict[str, Any]]], first: str, last: str, legal: set[tuple[str, str]]
) -> list[str]:
    state, said = first, []
    for number, (kind, fields) in enumerate(leaves):
        after = fields.get("state")
        if after is None or (number == 0 and after == first):
            continue
        if (state, after) not in legal and not (state == after and kind in STAYS):
            said.append(f"{kind} leads from {state} to {after}")
        elif state == after and kind not in STAYS:
            said.append(f"{kind} is there twice")
        state = after
    if not leaves:
        said.append("has no leaf")
    if state != last:
        said.append(f"the trail ends at {state}, the row is {last}")
    return said


def _tokens(ground: Ground, job_id: str, leaves: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Fencing tokens grow by one with each claim, and each claim has its leaf."""
    tokens = [fields["token"] for kind, fields in leaves if kind == "job.claimed"]
    now = ground.rows("SELECT fencing_token FROM job WHERE id = %s", job_id)[0]["fencing_token"]
    return [] if tokens == list(range(1, now + 1)) else [f"job {job_id}: claims with {tokens}, the token is {now}"]


def log(ground: Ground) -> list[str]:
    """Each leaf has a number or waits for one; numbers have no gap; each checkpoint is of the tree over its leaves."""
    said = []
    lost = ground.rows(
        "SELECT id FROM audit WHERE NOT EXISTS (SELECT FROM log_leaf WHERE audit_id = audit.id) "
        "AND NOT EXISTS (SELECT FROM audit_pending WHERE audit_id = audit.id)"
    )
    signed = ground.rows("SELECT size, root FROM checkpoint ORDER BY id")
    rows = ground.rows(
        "SELECT position, hash, sha256('\\x00'::bytea || leaf) AS found FROM log_leaf "
        "LEFT JOIN audit ON audit.id = audit_id ORDER BY position"
    )
    said += [f"the leaf {row['id']} neither has a number nor waits for one" for row in lost]
    if [row["position"] for row in rows] != list(range(len(rows))):
        said.append("the numbers of leaves have a gap")
    said += [f"the leaf number {row['position']} has another hash" for row in rows if row["hash"] != row["found"]]
    for size, root in {(one["size"], bytes(one["root"])) for one in signed}:
        if size > len(rows) or _root([bytes(row["hash"]) for row in rows[:size]]) != root:
            said.append(f"the checkpoint of {size} leaves is not of those that are there")
    return said


def _root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, over hashes of leaves."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + _root(hashes[:split]) + _root(hashes[split:])).digest()


def files(ground: Ground) -> list[str]:
    """No orphans below the data directory, once what is swept has been swept."""
    rows = ground.rows("SELECT directory FROM adapter")
    known = {Path(row["directory"]).name for row in rows}
    there = {path.name for path in (ground.data / "adapters").iterdir()} if rows else set()
    said = [f"adapters/{name} belongs to no version" for name in sorted(there - known)]
    named = (
        "SELECT digest FROM report UNION ALL SELECT digest FROM certificate "
        "UNION ALL SELECT contents_digest FROM bundle WHERE contents_digest IS NOT NULL"
    )
    reports = {row["digest"] for row in ground.rows(named)}
    for path in sorted((ground.data / "artifacts").rglob("*")):
        inner = path.relative_to(ground.data / "artifacts")
        if path.name.startswith(".") or inner.parts[-1].endswith(".partial"):
            said.append(f"artifacts/{inner} is left of something that never ended")
        elif path.is_file() and not path.suffix and path.name not in reports:
            said.append(f"artifacts/{inner} is no job's report, certificate or bundle")
    return said + [f"scratch/{path.name} is left of a job that is over" for path in (ground.data / "scratch").glob("*")]


def texts(ground: Ground) -> list[str]:
    """No text got into a log."""
    said = []
    for path in sorted(ground.stack.logs.glob("*.log")):
        with path.open(encoding="utf-8", errors="replace") as file:
            said += [f"{path.name}:{number} holds a text" for number, line in enumerate(file, 1) if CANARY in line]
    return said
