"""Makes a golden bundle: `python tests/golden/make_bundle.py DIRECTORY`. Its keys are made anew and thrown away.

The directory then holds all that an auditor has: report.zip, the verifier key, an earlier checkpoint, the adapter
version and what is signed about that. It is never made again in its place: what was issued once has to verify for ever.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from app.trust.dsse import sign_statement
from app.trust.keys import Ed25519Signer
from app.trust.model_signature import SIGNATURE, P256Signer, sign_model
from app.trust.statement import erasure, eval_result, provenance
from tests.app.trust.evidence import AT, WEIGHTS, evidence, manifest

SUBJECTS = 11
"""So many that figures have intervals."""


def main(place: Path) -> None:
    """Write the files. Raises FileExistsError where there are any."""
    signer, model_signer = Ed25519Signer.new("golden.example/log"), P256Signer(ec.generate_private_key(ec.SECP256R1()))
    found = evidence(SUBJECTS, signer)
    files = {name: hashlib.sha256(data).hexdigest() for name, data in WEIGHTS.items()}
    report = hashlib.sha256(found.files["report.json"]).hexdigest()
    statements = {
        "provenance.json": provenance(
            files, builder="urn:grail:service:golden.example/log", job_id="job-1", settings=found.document["method"],
            made_from=[("base model", "bb" * 32)], versions={"torch": "2.9"}, started_at=AT, finished_at=AT,
        ),
        "eval-result.json": eval_result(files, found.document, report, AT),
        "erasure.json": erasure(files, requests={"req-1": "forgotten"}, replaces=None, report_digest=report, at=AT),
    }  # fmt: skip
    place.mkdir(parents=True)
    (place / "adapter").mkdir()
    whole = {
        "report.zip": found.bundle, "keys": f"{signer.vkey}\n".encode(), "checkpoint": found.kept,
        "model.pub": model_signer.public_pem,
        **{f"adapter/{name}": data for name, data in {**WEIGHTS, "manifest.json": manifest(2, "x")}.items()},
        f"adapter/{SIGNATURE}": sign_model("m-2", files, model_signer, ("manifest.json",)),
        **{name: sign_statement(statement, [signer]) for name, statement in statements.items()},
    }  # fmt: skip
    for name, data in whole.items():
        (place / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
