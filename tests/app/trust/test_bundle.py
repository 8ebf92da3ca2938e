"""A bundle holds, on its own, offline; and whatever is changed in it is caught and named."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.trust import verify as standalone
from app.trust.bundle import archive, log_json, scores_of
from app.trust.canonical import canonical
from app.trust.checkpoint import Head, sign_checkpoint
from app.trust.dsse import sign_statement
from app.trust.keys import Ed25519Signer, Ring, UnsafeDevelopmentSigner, UnsafeKey
from app.trust.merkle import root
from app.trust.verify import CODES, Rejected, read_bundle, verify
from cli.main import app
from tests.app.trust.evidence import AT, EARLIER, ORIGIN, OTHER, SIGNER, WEIGHTS, Evidence, evidence, manifest, tree

VERIFIER = Path(standalone.__file__)


def small() -> Evidence:
    """Few subjects, so no intervals: quick to verify."""
    return evidence(4)


def kinds(bundle: bytes, keys: str = SIGNER.vkey, **given: object) -> list[str | None]:
    adapter, since = given.pop("adapter", None), given.pop("since", None)
    return [a.kind for a in verify(bundle, keys, adapter, since, **given) if a.ok is False]  # type: ignore[arg-type]


def rebuilt(change: Callable[[dict[str, bytes]], None], *, signed: bool = False, of: Evidence | None = None) -> bytes:
    """The bundle with changed files in a sound archive; `signed` anew by the same key, as an issuer could."""
    files = dict((of or small()).files)
    change(files)
    if signed:
        statement = json.loads(standalone.unbase64(json.loads(files["statement.json"])["payload"]))
        for one in statement["subject"]:
            one["digest"]["sha256"] = hashlib.sha256(files[one["name"]]).hexdigest()
        files["statement.json"] = sign_statement(statement, [SIGNER])
    return archive(files)


def adapter_in(directory: Path) -> Path:
    for name, data in {**WEIGHTS, "manifest.json": manifest(2, "x"), "model.sig": b"{}"}.items():
        (directory / name).write_bytes(data)
    return directory


def test_every_question_is_answered_with_yes(tmp_path: Path) -> None:
    made = evidence()
    assert made.document["metrics"]["privacy"]["forget"]["success"]["after"]["interval"]
    found = verify(made.bundle, SIGNER.vkey, adapter_in(tmp_path), made.kept)
    assert [answer.ok for answer in found] == [True] * 6, found


def test_the_archive_is_the_same_bytes_and_a_zip_for_everybody() -> None:
    files = small().files
    assert archive(dict(reversed(files.items()))) == small().bundle
    with zipfile.ZipFile(io.BytesIO(small().bundle)) as zipped:
        assert zipped.testzip() is None and {n: zipped.read(n) for n in zipped.namelist()} == files


def test_any_changed_byte_of_the_archive_is_caught_and_named() -> None:
    raw = bytearray(small().bundle)
    tail = len(raw) - 1500
    rng = random.Random(7)
    for at in [*range(80), *range(tail, len(raw)), *(rng.randrange(len(raw)) for _ in range(400))]:
        raw[at] ^= 1 << rng.randrange(8)
        with pytest.raises(Rejected) as caught:
            read_bundle(bytes(raw))
        assert caught.value.kind in ("bundle-malformed", "bundle-damaged")
        raw[:] = small().bundle


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_changed_byte_of_any_file_in_a_sound_archive_is_caught_and_named(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(small().files)))
    at = data.draw(st.integers(0, len(small().files[name]) - 1))
    flip = data.draw(st.integers(1, 255))

    def change(files: dict[str, bytes]) -> None:
        files[name] = files[name][:at] + bytes([files[name][at] ^ flip]) + files[name][at + 1 :]

    expected = {
        "statement.json": {"statement-malformed", "unknown-key", "bad-signature"},
        "checkpoint": {"checkpoint-malformed", "unknown-key", "bad-signature"},
        "log.json": {"proof-malformed", "not-in-log", "not-sealed", "log-forked"},
    }.get(name, {"content-changed"})
    found = kinds(rebuilt(change))
    assert found and set(found) <= expected, (name, at, found)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "A", "x\\y", "con:", ".x", "a//b", "report.json/", ""])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(Rejected):
        read_bundle(archive({**small().files, name: b""}))


def test_compression_repetition_and_what_is_added_are_refused() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in sorted(small().files.items()):
            zipped.writestr(name, data)
    twice = small().bundle.replace(b"report.pdf", b"score.json", 1)
    for raw in (packed.getvalue(), twice, small().bundle + b"x", b"x" + small().bundle, b"", b"PK\3\4"):
        with pytest.raises(Rejected):
            read_bundle(raw)
    assert kinds(rebuilt(lambda files: files.update({"more.txt": b""}))) == ["content-changed"]
    assert kinds(rebuilt(lambda files: files.pop("report.pdf") and None)) == ["content-changed"]


@pytest.mark.parametrize(
    ("name", "old", "new", "kind"),
    [
        ("scores.json", b'"accuracy":0.9', b'"accuracy":0.8', "figures-differ"),
        ("report.json", b'"interval":[', b'"interval":[1', "figures-differ"),
        ("report.json", b'"ok":true', b'"ok":false', "verdict-differs"),
        ("report.json", b'"gate":', b'"gates":', "report-malformed"),
        ("adapter/new.json", b"grail.adapter/1", b"grail.adapter/2", None),
        ("adapter/new.json", b'"sha256": "', b'"sha256": "0', "manifest-wrong"),
    ],
)
def test_an_issuer_who_signs_wrong_figures_is_caught(name: str, old: bytes, new: bytes, kind: str | None) -> None:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name]
        files[name] = files[name].replace(old, new, 1)

    found = kinds(rebuilt(change, signed=True, of=evidence() if b"interval" in old else None))
    assert found == [*([kind] if kind else []), "not-sealed"]  # the log keeps what was signed first


def test_a_wrong_revoked_or_expired_key_fails_closed() -> None:
    bundle, ring = small().bundle, Ring().add(SIGNER.vkey)
    who = (SIGNER.name, SIGNER.key_id)
    assert kinds(bundle, OTHER.vkey) == ["unknown-key"]
    assert kinds(bundle, Ed25519Signer.new(ORIGIN).vkey) == ["unknown-key"]
    assert kinds(bundle, ring.revoke(*who, AT).text()) == ["key-refused"]
    assert kinds(bundle, ring.retire(*who, AT - timedelta(days=1)).text()) == ["key-refused"]
    assert kinds(bundle, Ring().add(SIGNER.vkey, not_before=AT + timedelta(1)).text()) == ["key-refused"]
    assert kinds(bundle, ring.retire(*who, AT + timedelta(days=1)).add(OTHER.vkey).text()) == []
    assert kinds(bundle, "") == kinds(bundle, "nonsense") == ["key-malformed"]


def test_a_development_key_counts_only_where_it_is_asked_for() -> None:
    with pytest.warns(UnsafeKey):
        signer = UnsafeDevelopmentSigner("dev/log")
    made = evidence(4, signer)
    assert kinds(made.bundle, signer.vkey) == ["unsafe-key"]
    assert kinds(made.bundle, signer.vkey, unsafe=True) == []


def test_since_tells_forks_other_logs_and_missing_proofs_apart() -> None:
    made = small()
    forged = [b"x", *made.leaves[1:]]

    def kept(leaves: list[bytes], size: int, signer: Ed25519Signer = SIGNER) -> bytes:
        return sign_checkpoint(Head(signer.name, size, root(tree(leaves), size)), [signer])

    for size in (0, EARLIER, 8, len(made.leaves)):
        assert kinds(made.bundle, since=kept(made.leaves, size)) == []
    assert kinds(made.bundle, since=kept(forged, EARLIER)) == ["log-forked"]
    assert kinds(made.bundle, since=kept(forged, len(forged))) == ["log-forked"]
    assert kinds(made.bundle, since=kept(made.leaves, 6)) == ["no-consistency-proof"]
    assert kinds(made.bundle, since=kept([*made.leaves, b"n"], 12)) == ["no-consistency-proof"]
    assert kinds(made.bundle, SIGNER.vkey + "\n" + OTHER.vkey, since=kept(forged, 5, OTHER)) == ["other-log"]
    assert kinds(made.bundle, since=b"nonsense") == ["checkpoint-malformed"]


def test_the_adapter_on_disk_is_compared_to_the_byte(tmp_path: Path) -> None:
    for number, spoil in enumerate(
        (
            lambda d: (d / "adapter_config.json").write_bytes(b"{}"),
            lambda d: (d / "adapter_config.json").unlink(),
            lambda d: (d / "adapter_model.bin").write_bytes(b""),
            lambda d: (d / "manifest.json").write_bytes(manifest(1, None)),
        )
    ):
        (tmp_path / str(number)).mkdir()
        spoil(adapter_in(tmp_path / str(number)))
        assert kinds(small().bundle, adapter=tmp_path / str(number)) == ["adapter-differs"]


def test_scores_are_blinded_and_keep_only_own_requests() -> None:
    scores = scores_of(small().document, b"o" * 32, own={"req-1"})
    examples = small().document["examples"]
    assert not any(value.encode() in scores for one in examples for value in (one["id"], one["subject_id"]))
    assert b"req-1" in scores and b"req-2" not in scores
    assert scores != scores_of(small().document, b"p" * 32, own={"req-1"})


def test_the_file_alone_verifies_where_nothing_else_is(tmp_path: Path) -> None:
    shutil.copy(VERIFIER, tmp_path / "check.py")
    (tmp_path / "report.zip").write_bytes(small().bundle)
    (tmp_path / "kept").write_bytes(small().kept)
    (tmp_path / "adapter").mkdir()
    adapter_in(tmp_path / "adapter")
    code = (  # cryptography and what it needs; everything else of ours or others' fails to import
        "import sys, runpy, importlib.abc\n"
        "class Only(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        top = name.split('.')[0]\n"
        "        if top in ('cryptography', 'cffi', '_cffi_backend') or top in sys.stdlib_module_names: return None\n"
        "        raise ImportError(name)\n"
        "sys.meta_path.insert(0, Only())\n"
        "sys.argv = ['check.py', 'report.zip', '--key', sys.argv[1], '--adapter', 'adapter', '--since', 'kept']\n"
        "runpy.run_path('check.py', run_name='__main__')\n"
    )
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, SIGNER.vkey], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr + run.stdout
    assert [line.split()[:2] for line in run.stdout.splitlines()] == [["yes", name] for name in standalone.YES]


def test_the_command_gives_the_same_answers_and_codes(tmp_path: Path) -> None:
    path = tmp_path / "report.zip"
    path.write_bytes(small().bundle)
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{OTHER.vkey}\n")
    run = CliRunner().invoke(app, ["verify", str(path), "--key", str(keys), "--json"])
    assert run.exit_code == CODES["unknown-key"] == json.loads(run.stdout)["code"]
    missing = CliRunner().invoke(app, ["verify", str(tmp_path / "no.zip"), "--key", SIGNER.vkey])
    assert missing.exit_code == CODES["unreadable"] and "no.zip" in missing.stdout
    assert CliRunner().invoke(app, ["verify", str(path), "--key", SIGNER.vkey]).exit_code == 0


def test_the_verifier_is_short_enough_to_be_read_whole() -> None:
    """What an auditor trusts instead of us has to be read by one person in an hour."""
    assert len(VERIFIER.read_text(encoding="utf-8").splitlines()) <= 400


def test_roots_of_leaves_carry_nothing() -> None:
    def change(files: dict[str, bytes]) -> None:
        (first, *leaves), seal, earlier = standalone.parse_log(files["log.json"])
        files["log.json"] = log_json([first._replace(root=b"hidden"), *leaves], seal, earlier)

    assert kinds(rebuilt(change)) == ["proof-malformed"]


def test_a_seal_that_no_text_can_hold_is_refused() -> None:
    def change(files: dict[str, bytes]) -> None:
        leaves, _, earlier = standalone.parse_log(files["log.json"])
        files["log.json"] = log_json(leaves, "\ud800", earlier)

    assert kinds(rebuilt(change)) == ["not-sealed"]


def test_codes_are_distinct_and_explained() -> None:
    text = (VERIFIER.parents[2] / "docs" / "verify.md").read_text(encoding="utf-8")
    assert len(set(CODES.values())) == len(CODES)
    for kind, code in CODES.items():
        assert f"| {code} | `{kind}` |" in text


def test_canonical_bytes_are_what_the_wrappers_use() -> None:
    value = {"b": ["\u20ac", 1], "a": "x"}
    assert json.loads(standalone.wrapped(value)) == json.loads(canonical(value))


def test_a_changed_proof_from_an_earlier_state_is_caught_even_if_nobody_asks_for_it() -> None:
    def change(files: dict[str, bytes]) -> None:
        leaves, seal, (first, *rest) = standalone.parse_log(files["log.json"])
        files["log.json"] = log_json(leaves, seal, [first._replace(root=b"x" * 32), *rest])

    assert kinds(rebuilt(change)) == ["log-forked"]
