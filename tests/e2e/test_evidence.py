"""From a deletion request to evidence that holds without the service: real processes, one of them killed, the commands
that an officer uses, and the verifier as one copied file."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from app.trust import verify as standalone
from app.trust.dsse import open_envelope
from app.trust.verify import parse_keys, read_bundle
from cli.stack import Stack
from tests.app.trust.model_signatures import differs, verified
from tests.e2e.service import Service, tiny_policy
from tests.e2e.test_stops import until
from tests.fixtures.facts import PEOPLE, TEMPLATE, WORKS, body

HERE = Path(__file__).resolve().parents[2]


def grail(*arguments: object, expect: int = 0, **environment: str) -> str:
    """What a command prints, in a process of its own."""
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(HERE), **environment}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert ran.returncode == expect, ran.stdout + ran.stderr
    return ran.stdout


def test_an_officer_hands_an_auditor_a_bundle_that_answers_every_question_with_yes(
    service: Service, stack: Stack, taught: Path, tmp_path: Path
) -> None:
    officer, operator = service.clients["officer"], service.clients["operator"]
    until(lambda: officer.get("/v1/log/checkpoint").status_code == 200)
    (tmp_path / "kept").write_bytes(officer.get("/v1/log/checkpoint").content)
    service.register("proved", taught / "base", taught / "adapter", TEMPLATE, tiny_policy())
    for domain, subject in (("privacy", "Ada"), ("copyright", "Dusk")):
        service.call("requester", "POST", "/v1/requests", 202, json=body(domain, subject, "proved"))
    job = service.call("operator", "POST", "/v1/jobs", 202, json={"served_model": "proved"})
    assert service.job_ended(job["id"])["state"] == "published"
    stack.kill("control")  # wherever it is with the bundle
    path = f"/v1/jobs/{job['id']}/report.zip"
    until(lambda: officer.get(path).status_code == 200)  # a try that was killed is repeated after a minute

    key = officer.headers["authorization"].removeprefix("Bearer ")
    named = {"GRAIL_URL": stack.base_url, "GRAIL_KEY": key}
    grail("jobs", "bundle", job["id"], "-o", tmp_path / "report.zip", "--since", tmp_path / "kept", **named)
    (tmp_path / "keys").write_bytes(officer.get("/v1/log/keys").content)
    download = operator.get("/v1/models/proved/adapters/2/download")
    with tarfile.open(fileobj=io.BytesIO(download.content)) as tar:
        tar.extractall(tmp_path / "tar", filter="data")
    (adapter,) = (tmp_path / "tar").iterdir()
    said = grail("verify", tmp_path / "report.zip", "--key", tmp_path / "keys", "--adapter", adapter,
                 "--since", tmp_path / "kept")  # fmt: skip
    assert [line.split()[0] for line in said.splitlines()] == ["yes"] * 6, said

    files = read_bundle((tmp_path / "report.zip").read_bytes())
    secrets = [secret.encode() for secret in (PEOPLE["Ada"][0], WORKS["Dusk"][0])]
    assert not [name for name, data in files.items() for secret in secrets if secret in data]

    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(standalone.__file__, alone / "verify.py")
    raw = (tmp_path / "report.zip").read_bytes()

    def answered(bundle: bytes) -> Any:
        (alone / "report.zip").write_bytes(bundle)
        command = [sys.executable, "-I", "verify.py", "report.zip", "--key", "../keys", "--adapter", str(adapter),
                   "--since", "../kept", "--json"]  # fmt: skip
        return json.loads(subprocess.run(command, cwd=alone, capture_output=True, text=True, check=False).stdout)

    assert answered(raw)["ok"], "the copied file by itself"
    for at in (40, len(raw) // 2, len(raw) - 50):
        assert not answered(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])["ok"]

    address = "/v1/models/proved/adapters/2/attestations"
    until(lambda: len(service.call("operator", "GET", address)["items"]) == 5)
    signed = {one["name"]: one["body"].encode() for one in service.call("operator", "GET", address)["items"]}
    for name in ("provenance.json", "eval-result.json", "erasure.json"):
        open_envelope(signed[name], parse_keys((tmp_path / "keys").read_text()))
    assert differs(verified(signed["model.sig"], signed["model.pub"]), adapter) == []
    seals = [item for item in leaves(service) if item["event"] == "report.sealed"]
    assert len({item["subject_id"] for item in seals}) == len(seals), "one a report"


def leaves(service: Service) -> list[Any]:
    """Every leaf of the log."""
    found, start = [], 0
    while start is not None:
        page = service.call("officer", "GET", "/v1/log/leaves", params={"start": start, "limit": 200})
        found += [json.loads(item["leaf"]) for item in page["items"]]
        start = page["next_start"]
    return found
