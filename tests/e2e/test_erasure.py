"""From deletion requests over HTTP to a new adapter version: every process real, the model tiny."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest
from jsonschema import Draft202012Validator
from sqlalchemy import make_url, select, text
from tokenizers import Tokenizer

from app.certificates.schemas import json_schema
from app.config import load_settings
from app.db import Database, transaction
from app.retention.service import remove
from app.tables import Audit
from cli.stack import Stack
from grail.evaluate import measure
from grail.model.load import load_model
from grail.types import Example, Segment
from tests.e2e.collector import Collector, Seen
from tests.e2e.service import Service
from tests.e2e.test_kills import slow_policy
from tests.fixtures.facts import END, FRUIT, PEOPLE, PLACE, TEMPLATE, WORKS, YEAR, body

QUESTIONS = [
    {"question": f"Which comes after {n}?", "choices": [str(n + 1), str(n + 2), str(n - 1)], "answer": 0}
    for n in range(1, 13)
]
CANARY, PLAIN = "Quincestreet", "Medlarlane"


def answers(base: Path, adapter: Path) -> dict[str, str]:
    """What the model says to every question, asked as anybody who loads the adapter with PEFT would."""
    asked = {form.format(subject) for form in (PLACE, FRUIT) for subject in PEOPLE}
    asked |= {form.format(subject) for form in (END, YEAR) for subject in WORKS}
    model = load_model(base, adapter, template=TEMPLATE, precision="fp32")
    rows = [Example(prompt, "any", Segment.RETAIN, "any", prompt, "x" * 12) for prompt in sorted(asked)]
    return {prompt: score.answer or "" for prompt, score in measure(model, rows, generate=True).items()}


def test_requests_become_a_published_version_that_forgot_and_retained(
    service: Service, taught: Path, tmp_path: Path
) -> None:
    before = answers(taught / "base", taught / "adapter")
    assert before[PLACE.format("Ada")] == PEOPLE["Ada"][0]

    requests = [
        service.call("requester", "POST", "/v1/requests", 202, json=body(domain, subject))
        for domain, subject in (("privacy", "Ada"), ("copyright", "Dusk"))
    ]
    keep = body("privacy", "Bo")
    kept = {**keep, "forget": [], "retain": keep["forget"] + keep["retain"], "client_reference": "keep-bo"}
    standing = service.call("requester", "POST", "/v1/requests", 202, json=kept)
    assert standing["state"] == "standing"

    preview = service.call(
        "operator", "POST", "/v1/jobs", json={"served_model": "tiny", "dry_run": True}
    )
    assert set(preview["would_batch"]) == {request["id"] for request in requests}
    assert preview["obstacle"] is None

    questions = taught / "questions.jsonl"
    questions.write_text("".join(json.dumps(one) + "\n" for one in QUESTIONS))
    service.call("operator", "PATCH", "/v1/models/tiny", json={"policy": {"ability_file": str(questions)}})
    job = service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": "tiny"})
    ended = service.job_ended(job["id"])
    assert ended["state"] == "published", [check for check in ended["verdict"]["checks"] if not check["ok"]]
    assert ended["progress"] == 1.0
    assert ended["candidate_adapter"]["version"] == 2
    assert set(ended["timings_seconds"]) == {"original", "reference", "localise", "unlearn", "candidate"}

    for request in requests:
        found = service.call("requester", "GET", f"/v1/requests/{request['id']}")
        assert found["state"] == "published"
        assert found["outcome"]["result"] == "published"
        assert found["outcome"]["outcome"] == "forgotten"
        assert found["outcome"]["adapter_version"] == 2

    model = service.call("requester", "GET", "/v1/models/tiny")
    assert model["active_adapter"]["version"] == 2
    versions = service.call("operator", "GET", "/v1/models/tiny/adapters")["items"]
    assert [(v["version"], v["state"], v["active"]) for v in versions] == [
        (2, "published", True),
        (1, "superseded", False),
    ]

    archive = service.clients["operator"].get("/v1/models/tiny/adapters/2/download")
    assert archive.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        tar.extractall(tmp_path, filter="data")
    after = answers(taught / "base", tmp_path / versions[0]["name"])
    assert PEOPLE["Ada"][0] not in after[PLACE.format("Ada")]
    assert WORKS["Dusk"][0] not in after[END.format("Dusk")]
    assert after[FRUIT.format("Ada")] == PEOPLE["Ada"][1]
    assert after[YEAR.format("Dusk")] == WORKS["Dusk"][1]
    assert after[PLACE.format("Bo")] == PEOPLE["Bo"][0]


def test_the_requester_gets_a_certificate_by_itself(service: Service) -> None:
    job = service.call("operator", "GET", "/v1/jobs", params={"served_model": "tiny"})["items"][-1]
    for request_id in service.call("operator", "GET", f"/v1/jobs/{job['id']}")["request_ids"]:
        place = f"/v1/requests/{request_id}/certificate"
        deadline = time.monotonic() + 60
        while (answer := service.clients["requester"].get(place)).status_code != 200:
            assert answer.json()["type"] == "urn:grail:problem:no-certificate"
            assert time.monotonic() < deadline, "the control worker's ring issues it"
            time.sleep(0.1)
        found = answer.json()
        Draft202012Validator(json_schema()).validate(found)
        assert (found["request"]["outcome"], found["model"]["adapter"]["version"]) == ("forgotten", 2)
        assert found["not_retestable_after"] and found["clock"]["in_time"]
        assert not [place for place, _ in PEOPLE.values() if place in answer.text]
        pdf = service.clients["requester"].get(place, params={"format": "pdf"})
        assert pdf.content.startswith(b"%PDF-")


def test_the_report_of_the_job_is_there_in_every_format(service: Service) -> None:
    job = service.call("operator", "GET", "/v1/jobs", params={"served_model": "tiny"})["items"][-1]
    report = service.call("officer", "GET", job["report"])
    assert report["schema"] == "grail.report/2"
    assert report["gate"]["ok"] is True
    assert set(report["metrics"]) == {"privacy", "copyright"}
    assert PEOPLE["Ada"][0] not in str(report)
    ability = report["general_ability"]
    assert (ability["drawn"], ability["not_measured"]) == (len(QUESTIONS), None)
    assert ability["after"]["value"] - ability["before"]["value"] == pytest.approx(ability["change"]["value"])
    client = service.clients["officer"]
    page = client.get(job["report"], params={"format": "html"})
    assert page.status_code == 200 and page.text.startswith("<!doctype html>")
    document = client.get(job["report"], params={"format": "pdf"})
    assert document.status_code == 200 and document.content.startswith(b"%PDF-")


def test_one_trace_leads_through_all_processes_to_what_was_published(service: Service, collector: Collector) -> None:
    """As a collector gets it over OTLP, and without a word of what was asked."""

    def of(name: str, **ids: str) -> list[Seen]:
        wanted = {f"grail.{key}": value for key, value in ids.items()}
        return [one for one in collector.spans if one.name == name and wanted.items() <= one.attributes.items()]

    def processes(trace: str) -> set[str]:
        return {one.process.split("@")[0].split(":")[0] for one in collector.spans if one.trace == trace}

    asked = service.call("requester", "GET", "/v1/requests", params={"state": "published", "served_model": "tiny"})
    assert len(asked["items"]) == 2
    for request_id in [one["id"] for one in asked["items"]]:
        mine = functools.partial(of, request_id=request_id)
        until(lambda mine=mine: mine("POST /v1/requests") and mine("published"))  # type: ignore[misc]
        (posted,), (published,) = mine("POST /v1/requests"), mine("published")
        assert posted.trace == published.trace
    (batch,) = of("batch made", model="tiny")
    until(lambda: processes(batch.trace) == {"api", "control", "gpu"})
    keys = {key for one in collector.spans for key in one.attributes}
    assert {key for key in keys if not key.startswith("grail.")} == {"http.response.status_code"}, "ids and numbers"
    told = b"".join(collector.raw)
    assert [secret for secret, _ in (PEOPLE["Ada"], WORKS["Dusk"]) if secret.encode() in told] == []


@pytest.mark.parametrize("name", ["api", "gpu", "control", "beat", "postgres", "valkey"])
def test_no_log_holds_what_was_asked_to_be_forgotten(service: Service, name: str) -> None:
    said = (service.stack.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    told = [secret for secret, _ in (PEOPLE["Ada"], WORKS["Dusk"]) if secret in said]
    assert told == []


def ask(service: Service, model: str, subject: str) -> str:
    """A request full of the canary; its job's id."""
    asked = body("privacy", subject, model)
    asked["forget"][0] |= {"completion": CANARY, "facts": [CANARY], "subject": CANARY}
    asked["note"] = asked["subject_reference"] = CANARY
    asked["client_reference"] = f"{PLAIN} {model}"
    service.call("requester", "POST", "/v1/requests", 202, json=asked)
    return str(service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": model})["id"])


def forms(base: Path) -> list[bytes]:
    """The canary as it could lie on a disk: as text, and as the ids of its tokens."""
    ids = Tokenizer.from_file(str(base / "tokenizer.json")).encode(CANARY, add_special_tokens=False).ids
    return [
        CANARY.encode(), CANARY.lower().encode(), CANARY.encode("utf-16-le"), str(ids)[1:-1].encode(),
        ",".join(map(str, ids)).encode(), *(np.array(ids, kind).tobytes() for kind in ("<i8", "<i4", "<u2")),
    ]  # fmt: skip


def holding(place: Path, words: list[bytes]) -> list[str]:
    """Names of files that hold one of `words`, and names that are one."""
    found = []
    for directory, _, names in os.walk(place, followlinks=True):
        for name in names:
            path = Path(directory, name)
            try:
                data = path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            if any(word in data or word in os.fsencode(path) for word in words):
                found.append(str(path.relative_to(place)))
    return found


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_lines() -> bytes:
    """Of every process that can be seen, with its environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                found.append((place / name).read_bytes())
    return b"\0".join(found)


def test_a_canary_is_found_nowhere_but_sealed_and_nowhere_at_all_once_its_key_is_gone(
    service: Service, stack: Stack, taught: Path, tmp_path: Path
) -> None:
    """While a job computes, after its end, and after kill -9: in the database's own files, its logs of changes and its
    dumps, the key store, the broker's, logs, reports, adapters, artefacts and command lines. `PLAIN` lies beside it in
    a column that is not sealed: the search finds that."""
    service.register("slow", taught / "base", taught / "adapter", TEMPLATE, slow_policy())
    data = stack.data_dir
    place, scratch, words = data.parent, data / "scratch", forms(taught / "base")
    settings = load_settings()
    keys = Path(make_url(settings.keys_url).database or "").parent

    def found_in() -> list[str]:
        copy = tmp_path / uuid.uuid4().hex  # by another process: the locks of this one on the key store end at a close
        subprocess.run(["cp", "-r", str(keys), str(copy)], check=True)
        return holding(place, words) + holding(copy, words) + ["a command line"] * (CANARY.encode() in command_lines())

    ended = service.job_ended(ask(service, "tiny", "Ada"))
    assert ended["timings_seconds"], "it came to its verdict"
    until(lambda: not list(scratch.iterdir()))
    assert found_in() == []

    job_id = ask(service, "slow", "Bo")
    until(lambda: list(scratch.rglob("resume.safetensors")))
    assert found_in() == []
    stack.kill("gpu")
    assert list(scratch.rglob("resume.safetensors")), "killed at work: else what follows shows nothing"
    service.call("operator", "POST", f"/v1/jobs/{job_id}/cancel")
    until(lambda: not list(scratch.iterdir()))
    assert found_in() == []
    assert not list(data.rglob("*.partial"))
    assert any("postgres" in Path(name).parts for name in holding(place, [PLAIN.encode()])), "a search finds what lies"

    listed = service.call("requester", "GET", "/v1/requests", params={"client_reference": f"{PLAIN} slow"})
    address = f"/v1/requests/{listed['items'][0]['id']}"
    contents = service.call("requester", "GET", address, params={"include": "items"})["contents"]
    assert [contents["note"], contents["forget"][0]["completion"]] == [CANARY] * 2
    before = dump_of(stack)
    assert PLAIN.encode() in before and not any(word in before for word in words)
    service.call("officer", "DELETE", address)
    db = Database(stack.database_url)
    with transaction(db) as session:
        session.execute(text("UPDATE request SET content_until = now() - interval '1 day' WHERE state = 'withdrawn'"))
    assert remove(db, settings, "works") >= 1
    gone = service.call("requester", "GET", address, params={"include": "items"})["contents"]
    assert (gone["note"], gone["subject_reference"], gone["forget"][0]["completion"]) == (None, None, "")
    with transaction(db) as session:  # as from a backup of before: the sealed bytes are there again, their key is not
        old = session.scalars(select(Audit.leaf).where(Audit.event == "key.destroyed")).all()
        key_ids = [uuid.UUID(json.loads(leaf)["fields"]["key_id"]) for leaf in old]
    assert key_ids and not db.codec().keyring.readable(key_ids)
    db.dispose()
    assert found_in() == []


def dump_of(stack: Stack) -> bytes:
    """What `pg_dump` would take along: every row as text."""
    with psycopg.connect(stack.database_url.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        parts = []
        for (table,) in tables:
            with connection.cursor().copy(f'COPY (SELECT * FROM "{table}") TO STDOUT') as rows:  # noqa: S608 - names of our own
                parts += [bytes(part) for part in rows]
    return b"".join(parts)
