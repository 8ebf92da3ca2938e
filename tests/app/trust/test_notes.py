"""Notes, keys, checkpoints, envelopes, commitments: published vectors, and nothing but typed errors from any bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from app.trust.checkpoint import Head, sign_checkpoint, sign_next
from app.trust.commitments import commit, new_salt, opens
from app.trust.dsse import envelope, sign_statement
from app.trust.keys import Ed25519Signer, KeyUnusable, Ring
from app.trust.model_signature import P256Signer
from app.trust.notes import NotANote, open_note, sign_note
from app.trust.statement import erasure, statement
from app.trust.verify import (
    CODES,
    Rejected,
    open_checkpoint,
    open_envelope,
    parse_head,
    parse_key,
    parse_keys,
    parse_log,
    parse_note,
    read_bundle,
    unbase64,
)  # fmt: skip
from tests.app.trust.evidence import AT, ORIGIN, OTHER, SIGNER, evidence

VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SEED = unbase64("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_VKEY = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
ENOCH = (
    "\u2014 EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
NOTE = (TEXT + "\n" + PETER).encode()


def test_gos_note_is_verified_and_signed_alike() -> None:
    assert open_note(NOTE, [parse_key(VKEY)]) == TEXT
    signer = Ed25519Signer("PeterNeumann", Ed25519PrivateKey.from_private_bytes(SEED))
    assert signer.vkey == VKEY and sign_note(TEXT, [signer]) == NOTE


def test_unknown_signatures_are_passed_over_and_a_wrong_known_one_spoils_all() -> None:
    both = (TEXT + "\n" + PETER + ENOCH).encode()
    for keys in (VKEY, ENOCH_VKEY, VKEY + "\n" + ENOCH_VKEY):
        assert open_note(both, parse_keys(keys)) == TEXT
    wrong = (TEXT + "\n" + PETER + ENOCH.replace("5n2t", "5n2s")).encode()
    assert open_note(wrong, parse_keys(VKEY)) == TEXT
    for keys, kind in ((VKEY + "\n" + ENOCH_VKEY, "bad-signature"), (OTHER.vkey, "unknown-key")):
        with pytest.raises(Rejected) as caught:
            open_note(wrong, parse_keys(keys))
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    "raw",
    [
        TEXT, TEXT + "\n", TEXT + "\n" + PETER[:-1], "\x01" + TEXT + "\n" + PETER, TEXT + "\n" + PETER + "More.\n",
        TEXT + "\n" + PETER.replace("PeterNeumann", "Bad Name"), TEXT + "\n" + PETER * 101, "\n" + PETER,
        TEXT + "\n" + PETER.replace("=", ""), TEXT + "\n\u2014 a AAAAAA==\n",
        TEXT + "\n" + PETER.replace("x08", "x0\u20ac"),
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(raw: str) -> None:
    for data in (raw.encode(), b"\xff" + raw.encode()):
        with pytest.raises(Rejected) as caught:
            parse_note(data)
        assert caught.value.kind == "checkpoint-malformed"


def test_every_mangled_key_is_refused() -> None:
    mangled = [VKEY[i:j] for i in range(len(VKEY)) for j in range(i + 1, len(VKEY) + 1) if (i, j) != (0, len(VKEY))]
    mangled += [VKEY[:i] + chr(ord(VKEY[i]) + 1) + VKEY[i + 1 :] for i in range(len(VKEY))]
    mangled += [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
        VKEY + " revoked=2026-01-01", VKEY + " revoked=never", VKEY + " later=2026-01-01T00:00:00Z", VKEY + "\n" + VKEY,
    ]  # fmt: skip
    for text in mangled:
        with pytest.raises(Rejected):
            parse_keys(text)


CHECKPOINT = sign_checkpoint(Head(ORIGIN, 11, b"r" * 32, ("extension",)), [SIGNER])
ENVELOPE = sign_statement(statement({"f": "0" * 64}, "urn:x", {}, AT), [SIGNER, OTHER])


def test_a_checkpoint_is_read_as_it_was_signed() -> None:
    keys = parse_keys(SIGNER.vkey)
    assert open_checkpoint(CHECKPOINT, keys) == Head(ORIGIN, 11, b"r" * 32, ("extension",))
    for text in ("a\n01\nx\n", "a\n1\n", "\n1\nx\n", "a\n-1\nx\n", "a b\n1\nx\n"):
        with pytest.raises(Rejected):
            parse_head(text.replace("x", "A" * 43 + "="))
    with pytest.raises(Rejected) as caught:  # of a known key, but not the log's own
        open_checkpoint(sign_note(CHECKPOINT.decode().split("\n\n")[0] + "\n", [OTHER]), parse_keys(OTHER.vkey))
    assert caught.value.kind == "unknown-key"


def test_a_log_never_signs_what_does_not_continue_its_last_checkpoint() -> None:
    with pytest.raises(Rejected) as caught:
        sign_next(Head(ORIGIN, 12, b"s" * 32), Head(ORIGIN, 11, b"r" * 32), [], [SIGNER])
    assert caught.value.kind == "log-forked"
    root = b"r" * 32
    for head in (Head("a b", 1, root), Head(ORIGIN, -1, root), Head(ORIGIN, 1, b"r"), Head("other", 1, root)):
        with pytest.raises(NotANote):
            sign_checkpoint(head, [SIGNER])


def test_an_envelope_is_read_with_one_of_two_keys() -> None:
    for signer in (SIGNER, OTHER):
        found, _, who = open_envelope(ENVELOPE, parse_keys(signer.vkey))
        assert found["predicate"]["issued_at"] == AT.isoformat() and who == f"{signer.name}+{signer.key_id}"
    with pytest.raises(ValueError, match="without a signature"):
        sign_statement({}, [])
    with pytest.raises(Rejected):
        open_envelope(envelope(b"{}", []), parse_keys(SIGNER.vkey))
    with pytest.raises(ValueError, match="SHA-256"):
        erasure({}, requests={}, replaces=None, report_digest="", at=AT)


SEEDS = {
    "note": NOTE, "checkpoint": CHECKPOINT, "envelope": ENVELOPE, "log": evidence().files["log.json"],
    "keys": (VKEY + " not-before=2026-01-01T00:00:00Z\n# note\n").encode(),
    "bundle": evidence().bundle[:3000],
}  # fmt: skip
KEYS = parse_keys(SIGNER.vkey)
PARSERS = {
    "note": parse_note, "checkpoint": lambda raw: open_checkpoint(raw, KEYS), "log": parse_log, "bundle": read_bundle,
    "envelope": lambda raw: open_envelope(raw, KEYS), "keys": lambda raw: parse_keys(raw.decode("utf-8", "replace")),
}  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_parsers_of_untrusted_bytes_raise_typed_errors_only(parser: str, data: st.DataObject) -> None:
    seed = SEEDS[parser]
    if data.draw(st.booleans()):
        raw = data.draw(st.binary(max_size=300))
    else:
        at, end = sorted(data.draw(st.tuples(*[st.integers(0, len(seed))] * 2)))
        raw = seed[:at] + data.draw(st.one_of(st.binary(max_size=40), st.sampled_from(JUNK))) + seed[end:]
    try:
        PARSERS[parser](raw)
    except Rejected as error:
        assert error.kind in CODES


JUNK = [b"[" * 3000, b"1e999", b"NaN", b"9" * 5000, b"null", b'{"a":1,"a":2}', b"\xff", b"\n\n", b"\x00", b'"\\ud800"']


def test_keys_come_from_files_that_others_can_not_read_and_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(SIGNER.pem())
    path.chmod(0o640)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        Ed25519Signer.from_file(ORIGIN, path)
    path.chmod(0o600)
    assert Ed25519Signer.from_file(ORIGIN, path).vkey == SIGNER.vkey
    pem = SIGNER.pem().decode().replace("\n", "\\n")
    assert Ed25519Signer.from_environment(ORIGIN, {"K": pem}, "K").vkey == SIGNER.vkey
    for broken in ({}, {"K": "x"}):
        with pytest.raises(KeyUnusable):
            Ed25519Signer.from_environment(ORIGIN, broken, "K")
    with pytest.raises(KeyUnusable):
        Ed25519Signer.new("a name")
    with pytest.raises(KeyUnusable):
        P256Signer(ec.generate_private_key(ec.SECP384R1()))


def test_a_ring_keeps_old_keys_and_is_read_as_it_is_written() -> None:
    year = datetime(2027, 1, 1, tzinfo=UTC)
    ring = Ring().add(SIGNER.vkey).retire(SIGNER.name, SIGNER.key_id, AT).add(OTHER.vkey, not_before=AT)
    assert Ring.parse(ring.text()) == ring
    assert [key.name for key in ring.valid(year)] == [OTHER.name] and len(ring.keys) == 2
    with pytest.raises(KeyError):
        ring.revoke("nobody", "00000000", AT)
    with pytest.raises(Rejected):
        ring.add(OTHER.vkey)


def test_commitments_open_with_their_salt_alone() -> None:
    salt = new_salt()
    made = commit(salt, "subject", "Ada")
    assert opens(made, salt, "subject", "Ada")
    for other in ((new_salt(), "subject", "Ada"), (salt, "subjec", "tAda"), (salt, "subject", "Eve")):
        assert not opens(made, *other)
    with pytest.raises(ValueError, match="32 bytes"):
        commit(b"", "subject", "Ada")
