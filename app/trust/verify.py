"""Verify the bundle of an erasure report, offline: no network, no server, nothing of ours but this one file.

    python verify.py report.zip --key KEYS [--adapter DIR] [--since OLD_CHECKPOINT] [--json]

Needs Python 3.11 and `cryptography`. Get the key by another way than the bundle; docs/verify.md says what answers mean.
`grail verify` runs this very file. Bytes are hashed as they lie, never parsed and written again first. Content is read
once a signature by a given key covers it. What is not as it was issued, to the byte, is `Rejected`; kinds are exit
codes.
"""
# ruff: noqa: E401, I001  (and one blank line between parts: whoever audits this reads it whole, so it is kept short)
# fmt: off
from __future__ import annotations

import argparse, base64, hashlib, json, math, re, struct, sys, zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CODES = {
    "unreadable": 10, "bundle-malformed": 11, "bundle-damaged": 12,
    "key-malformed": 20, "unknown-key": 21, "key-refused": 22, "unsafe-key": 23, "bad-signature": 24,
    "statement-malformed": 25, "content-changed": 26,
    "checkpoint-malformed": 30, "proof-malformed": 31, "not-in-log": 32, "not-sealed": 33,
    "log-forked": 40, "no-consistency-proof": 41, "other-log": 42, "adapter-differs": 50, "manifest-wrong": 51,
    "figures-differ": 60, "verdict-differs": 61, "report-malformed": 62,
}  # exit codes; 0 is well, 2 a wrong call
MAX_BUNDLE_BYTES, MAX_MEMBERS, MAX_SMALL_BYTES, MAX_SIGNATURES = 256 << 20, 64, 1 << 20, 100
STATEMENT, LOG, CHECKPOINT, EVENTS, REPORT = "statement.json", "log.json", "checkpoint", "events.jsonl", "report.json"
SCORES, NEW, OLD = "scores.json", "adapter/new.json", "adapter/old.json"
MEMBER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63})?", re.ASCII)
PAYLOAD_TYPE, STATEMENT_TYPE = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"
REPORT_PREDICATE, SEAL, UNSAFE = "urn:grail:predicate:report:1", "report.sealed", "unsafe-"
NAME = r"[^\s+\x00-\x1f\x7f]{1,200}"
KEY = re.compile(rf"({NAME})\+([0-9a-f]{{8}})\+([\w+/=]{{44}})((?: (?:not-before|not-after|revoked)=\S+)*)", re.ASCII)
NOTE = re.compile(rf"([^\x00-\x09\x0b-\x1f]+\n)\n((?:\u2014 {NAME} \S+\n){{1,{MAX_SIGNATURES}}})")
HEAD = re.compile(rf"({NAME})\n(0|[1-9][0-9]{{0,17}})\n(.{{44}})\n((?:[^\n]+\n)*)")
ODD = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, struct.error)
# what content of another shape may raise

class Rejected(Exception):
    """Evidence that does not hold: `kind` (one of CODES) and a sentence."""
    def __init__(self, kind: str, said: str) -> None:
        self.kind, self.code = kind, CODES[kind]
        super().__init__(said)
def odd(what: str) -> Any:
    """Raise ValueError, in an expression."""
    raise ValueError(what)
@contextmanager
def refusing(kind: str, said: str) -> Iterator[None]:
    """Whatever content of another shape raises while it is read becomes Rejected. Also a decorator."""
    try:
        yield
    except ODD:
        raise Rejected(kind, said) from None
def parse_json(raw: bytes, kind: str, what: str) -> Any:
    """A JSON value in which no name repeats, and no number is none."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(pairs) if len(dict(pairs)) == len(pairs) else odd("a name repeats")
    with refusing(kind, f"{what} is not JSON of one meaning."):
        return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=odd)
def wrapped(value: Any) -> bytes:
    """The one form of what no signature covers (envelope, proofs): ASCII, sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
def base64_of(raw: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(raw).decode()
def unbase64(text: Any, size: int | None = None) -> bytes:
    """Standard base64 in its one form. Raises ValueError, TypeError."""
    raw = base64.b64decode(text, validate=True)
    if base64_of(raw) != text or (size is not None and len(raw) != size):
        raise ValueError("not the one base64 form")
    return raw
class Key(NamedTuple):
    """An Ed25519 verifier key: C2SP name, id (8 hex digits), 32 bytes; `not-before`, `not-after`, `revoked`, if any."""
    name: str
    id: str
    public: bytes
    times: Mapping[str, datetime]
    def counts(self, at: datetime | None) -> bool:
        """Whether a signature made at that time (None: not known) counts. None of a revoked key does."""
        in_time = at is None or self.times.get("not-before", at) <= at <= self.times.get("not-after", at)
        return in_time and "revoked" not in self.times
    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, of the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True
def key_id(name: str, public: bytes) -> str:
    """C2SP: the first four bytes of SHA-256 over name, newline, algorithm (1: Ed25519) and key, in hex."""
    return hashlib.sha256(name.encode() + b"\n\x01" + public).digest()[:4].hex()

@refusing("key-malformed", "A key is not name+hash+base64 of an Ed25519 key, perhaps with times.")
def parse_key(line: str) -> Key:
    """`name+hash+base64`, then perhaps `not-before=`, `not-after=`, `revoked=` and a time with its zone."""
    name, found, data, rest = KEY.fullmatch(line).groups()  # type: ignore[union-attr]
    raw, said = unbase64(data, 33), dict(part.split("=") for part in rest.split())
    times = {word: datetime.fromisoformat(value) for word, value in said.items()}
    if raw[0] != 1 or found != key_id(name, raw[1:]) or not all(time.tzinfo for time in times.values()):
        raise ValueError(line)
    return Key(name, found, raw[1:], times)
def parse_keys(text: str, *, unsafe: bool = False) -> tuple[Key, ...]:
    """Keys, one a line; empty lines and those that begin with # are passed over."""
    lines = [line.strip() for line in text.splitlines()]
    keys = tuple(parse_key(line) for line in lines if line and not line.startswith("#"))
    if not keys or len({(key.name, key.id) for key in keys}) != len(keys):
        raise Rejected("key-malformed", "There is no key, or one of them twice.")
    if not unsafe and any(key.name.startswith(UNSAFE) for key in keys):
        raise Rejected("unsafe-key", "A development key was given: anybody can sign with it. See --allow-unsafe-key.")
    return keys
Signatures = Sequence[tuple[str, bytes]]  # who (`name+id`), bytes; not verified
def signer_of(what: str, message: bytes, signed: Signatures, keys: Sequence[Key], at: datetime | None = None) -> str:
    """Which known key signed. Unknown ones are passed over, a wrong signature by a known one spoils all, a key that was
    not valid then counts for nothing."""
    known = {f"{key.name}+{key.id}": key for key in keys}
    ours = [who for who, _ in signed if who in known]
    if wrong := [who for who, raw in signed if who in known and not known[who].verifies(message, raw)]:
        raise Rejected("bad-signature", f"The signature of {what} by {wrong[0]} is not of these bytes.")
    if not ours:
        raise Rejected("unknown-key", f"No given key signed {what}, but {', '.join(who for who, _ in signed)}.")
    if not (good := [who for who in ours if known[who].counts(at)]):
        raise Rejected("key-refused", f"The key that signed {what} was revoked or not valid then: {ours[0]}.")
    return good[0]
@refusing("checkpoint-malformed", "A checkpoint is not a signed note.")
def parse_note(raw: bytes) -> tuple[str, Signatures]:
    """A C2SP signed note: text with its last newline, and signatures, not verified."""
    found = NOTE.fullmatch(raw[: MAX_SMALL_BYTES + 1].decode())
    text, tail = found.groups() if found and len(raw) <= MAX_SMALL_BYTES else odd("no note")
    signatures = [(name, unbase64(data)) for _, name, data in (line.split(" ") for line in tail[:-1].split("\n"))]
    return text, [(f"{name}+{blob[:4].hex()}", blob[4:] or odd("no signature")) for name, blob in signatures]
class Head(NamedTuple):
    """A log's state: origin, number of leaves, root hash; extension lines are opaque."""
    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
@refusing("checkpoint-malformed", "A checkpoint is not origin, size and root hash, a line each.")
def parse_head(text: str) -> Head:
    """The text of a C2SP checkpoint."""
    origin, size, root, rest = HEAD.fullmatch(text).groups()  # type: ignore[union-attr]
    return Head(origin, int(size), unbase64(root, 32), tuple(rest.split("\n")[:-1]))
def open_checkpoint(raw: bytes, keys: Sequence[Key]) -> Head:
    """A checkpoint that a known key of the log's own name signed."""
    text, signatures = parse_note(raw)
    head = parse_head(text)
    signer_of("the checkpoint", text.encode(), signatures, [key for key in keys if key.name == head.origin])
    return head
def leaf_hash(leaf: bytes) -> bytes:
    """RFC 9162: SHA-256(0x00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()
def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()
def _climb(place: int, last: int, hashes: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """From `place` of a level that ends at `last`: roots of what ends here, and of all. None if the length is wrong."""
    old = new = hashes[0] if hashes else b""
    for step in hashes[1:]:
        if last == 0:
            return None
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    return (old, new) if last == 0 else None
def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, 2.1.3.2: the leaf with this hash stands at `index` of the tree of `size` leaves with that root."""
    if not 0 <= index < size or (_climb(index, size - 1, [leaf, *path]) or (b"", b""))[1] != root:
        raise Rejected("not-in-log", f"What should be leaf {index} of {size} is not in the log of that root.")
def verify_consistency(size: int, root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """RFC 9162, 2.1.4.2: the tree of `new_size` leaves begins with that of `size`."""
    if size in (0, new_size):
        holds = not path and root == (new_root if size == new_size else hashlib.sha256().digest())
    else:
        place, last, hashes = size - 1, new_size - 1, [root] * (size & (size - 1) == 0) + [*path]
        while place & 1:
            place, last = place >> 1, last >> 1
        holds = 0 < size < new_size and _climb(place, last, hashes) == (root, new_root)
    if not holds:
        raise Rejected("log-forked", f"A log of {new_size} leaves does not continue that of {size}: its past differs.")
def pae(payload: bytes) -> bytes:
    """What DSSE signs: the payload's type and the payload, each with its length in front."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
def envelope(payload: bytes, signed: Signatures) -> bytes:
    """A DSSE envelope of an in-toto statement, in its one form."""
    signatures = [{"keyid": who, "sig": base64_of(raw)} for who, raw in signed]
    return wrapped({"payload": base64_of(payload), "payloadType": PAYLOAD_TYPE, "signatures": signatures})
def open_envelope(raw: bytes, keys: Sequence[Key]) -> tuple[Any, bytes, str]:
    """Statement, its bytes, and who signed it, by a key that was valid at the time that the statement names, if any."""
    with refusing("statement-malformed", "The statement is not in a DSSE envelope of its one form."):
        value = parse_json(raw[: MAX_SMALL_BYTES + 1], "statement-malformed", "The envelope")
        payload, signed = unbase64(value["payload"]), [(s["keyid"], unbase64(s["sig"])) for s in value["signatures"]]
        if envelope(payload, signed) != raw or len(signed) > MAX_SIGNATURES:
            raise ValueError("another form")
    signer_of("the statement", pae(payload), signed, keys)
    statement = parse_json(payload, "statement-malformed", "The statement")
    with refusing("statement-malformed", "The statement is not one of in-toto, with the time of its issue."):
        at = datetime.fromisoformat(statement["predicate"]["issued_at"])
        if statement["_type"] != STATEMENT_TYPE or not at.tzinfo:
            raise ValueError("another type")
    return statement, payload, signer_of("the statement", pae(payload), signed, keys, at)
def archive(files: Mapping[str, bytes]) -> bytes:
    """The one zip of these files: sorted, stored, dated 1980-01-01, no attributes. The same bytes on every machine."""
    body: list[bytes] = []
    index, at = b"", 0
    for name, data in sorted(files.items()):
        fixed = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
        body += [b"PK\3\4", fixed, name.encode("ascii"), data]
        index += b"PK\1\2\x14\0" + fixed + struct.pack("<3H2I", 0, 0, 0, 0, at) + name.encode("ascii")
        at += 30 + len(name) + len(data)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(files), len(files), len(index), at, 0)
    return b"".join([*body, index, end])
def read_bundle(raw: bytes) -> dict[str, bytes]:
    """Files of a bundle by name. Whatever `archive` would not have written (paths that lead elsewhere, repetitions,
    compression, anything between or behind) is refused: there is nothing to expand and nowhere to hide."""
    files: dict[str, bytes] = {}
    at = 0
    with refusing("bundle-malformed", "This is not the zip of a bundle as it was issued, with all its files."):
        while raw[at : at + 4] == b"PK\3\4" and len(raw) <= MAX_BUNDLE_BYTES:
            crc, size, _, length = struct.unpack_from("<3IH", raw, at + 14)
            name, start = raw[at + 30 : at + 30 + length].decode("ascii"), at + 30 + length
            if not MEMBER.fullmatch(name) or name in files or len(files) == MAX_MEMBERS:
                raise ValueError(name)
            files[name], at = raw[start : start + size], start + size
            if zlib.crc32(files[name]) != crc:
                raise Rejected("bundle-damaged", f"The archive was damaged or changed in {name}.")
        if not {STATEMENT, LOG, CHECKPOINT, EVENTS, REPORT, SCORES} <= set(files):
            raise ValueError("a file is missing")
    if archive(files) != raw:
        raise Rejected("bundle-damaged", "The archive was damaged or changed around its files.")
    return files
def open_bundle(files: Mapping[str, bytes], keys: Sequence[Key]) -> tuple[Any, bytes, str]:
    """What `open_envelope` gives, once the statement names exactly the files there are, but for the wrappers."""
    statement, payload, who = open_envelope(files[STATEMENT], keys)
    with refusing("statement-malformed", "The statement is not one about a report's files."):
        digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        if statement["predicateType"] != REPORT_PREDICATE or len(digests) != len(statement["subject"]):
            raise ValueError("another statement")
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for name in sorted(digests.keys() | found.keys() - {STATEMENT, LOG, CHECKPOINT}):
        if digests.get(name) != found.get(name):
            raise Rejected("content-changed", f"{name} is not the file that was signed.")
    return statement, payload, who
class Proof(NamedTuple):
    """Of a leaf: its index and path. Of an earlier state: its size, path and root."""
    number: int
    path: tuple[bytes, ...]
    root: bytes = b""
def log_json(leaves: Sequence[Proof], seal: str, earlier: Sequence[Proof]) -> bytes:
    """`log.json` in its one form: proofs of the events in their order, then of the seal; the seal; earlier states."""
    def plain(proofs: Sequence[Proof]) -> list[list[Any]]:
        return [[one.number, base64_of(one.root), *map(base64_of, one.path)] for one in proofs]
    return wrapped({"schema": "grail.log/1", "leaves": plain(leaves), "earlier": plain(earlier), "seal": seal})

@refusing("proof-malformed", f"{LOG} is not in its one form.")
def parse_log(raw: bytes) -> tuple[list[Proof], str, list[Proof]]:
    """What `log_json` was given, not verified."""
    value = parse_json(raw, "proof-malformed", LOG)
    leaves, earlier = ([Proof(int(number), tuple(unbase64(step, 32) for step in path), unbase64(root))
                        for number, root, *path in value[name]] for name in ("leaves", "earlier"))
    if log_json(leaves, value["seal"], earlier) != raw:
        raise ValueError("another form")
    return leaves, value["seal"], earlier
def check_log(files: Mapping[str, bytes], payload: bytes, keys: Sequence[Key]) -> tuple[str, int, Head, list[Proof]]:
    """The request's events and the seal of this statement are in the log of a signed checkpoint. Its earlier states."""
    head, (proofs, seal, earlier) = open_checkpoint(files[CHECKPOINT], keys), parse_log(files[LOG])
    *events, end = files[EVENTS].split(b"\n")
    if end or len(proofs) != len(events) + 1:
        raise Rejected("proof-malformed", "There is not one proof for each event and the seal.")
    for leaf, proof in zip([*events, seal.encode()], proofs, strict=True):
        verify_inclusion(proof.number, head.size, leaf_hash(leaf), proof.path, head.root)
    with refusing("not-sealed", "The last leaf does not seal this statement."):
        value = json.loads(seal)
        if (value["event"], value["fields"]["statement"]) != (SEAL, hashlib.sha256(payload).hexdigest()):
            raise ValueError("another seal")
    for one in earlier:
        verify_consistency(one.number, one.root, head.size, head.root, one.path)
    return head.origin, head.size, head, earlier
def check_since(old: Head, head: Head, earlier: Sequence[Proof]) -> None:
    """The log of `head` continues the checkpoint that was kept."""
    if old.origin != head.origin:
        raise Rejected("other-log", f"The checkpoint that was kept is of {old.origin}, the bundle's of {head.origin}.")
    path = {one.number: one.path for one in earlier} | {0: (), head.size: ()}
    if old.size not in path:
        raise Rejected("no-consistency-proof", f"There is no proof from {old.size} to {head.size} leaves: ask for it.")
    verify_consistency(old.size, old.root, head.size, head.root, path[old.size])
def check_manifests(files: Mapping[str, bytes], model: Any) -> None:
    """The manifests are those of the adapter versions that the report names."""
    for member, named in ((NEW, model["candidate_adapter"]), (OLD, model["start_adapter"])):
        with refusing("manifest-wrong", f"{member} is not the manifest of the adapter that the report names."):
            found = parse_json(files[member], "manifest-wrong", member) if named or member in files else None
            over = wrapped({"base": found["base_model_digest"], "files": found["files"]}) if found else b""
            if found and not hashlib.sha256(over).hexdigest() == found["digest"] == named["digest"]:
                raise ValueError(member)
def check_adapter(directory: Path, raw: bytes) -> None:
    """The directory holds the manifest's files, to the byte, and nothing else but the manifest and a signature."""
    with refusing("adapter-differs", "The report names no new adapter to compare with."):
        wanted = {one["file"]: one["sha256"] for one in json.loads(raw)["files"]}
    there = {path.name for path in directory.iterdir()}
    wanted |= {"manifest.json": hashlib.sha256(raw).hexdigest()} if "manifest.json" in there else {}
    for name in sorted(wanted.keys() | there - {"model.sig"}):
        if (name in there) != (name in wanted):
            raise Rejected("adapter-differs", f"{name} is {'on disk' if name in there else 'in the manifest'} only.")
        with (directory / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted[name]:
                raise Rejected("adapter-differs", f"{name} on this disk is not what the manifest names.")
RESAMPLES, WHENS, LARGEST = 2000, ("before", "after", "reference"), 709.782712893384  # exp of more overflows
GATED = {"min_cus": "forget", "max_forget_gap": "forget", "min_request_cus": "forget",
         "max_request_forget_gap": "forget", "min_paraphrase_cus": "forget_paraphrase",
         "min_earlier_cus": "forget_earlier", "min_rs": "retain", "min_request_rs": "retain"}
CUS, GAP = "calibrated_success", "forget_gap"
class Figure(NamedTuple):
    """A figure as reports print it."""
    value: float | None = None
    n: int = 0
    subjects: int = 0
    interval: tuple[float, float] | None = None
    note: str | None = None
    text: str | None = None
@lru_cache(maxsize=8)
def draws(subjects: int) -> list[Callable[[Sequence[Any]], tuple[Any, ...]]]:
    """For each resample what picks its subjects, at least two, from a list of all."""
    words = RESAMPLES * subjects
    stream = b"".join(hashlib.sha256(struct.pack(">2Q", 0, block)).digest() for block in range(-(-words // 4)))
    drawn = [word % subjects for word in struct.unpack(f">{words}Q", stream[: 8 * words])]
    return [itemgetter(*drawn[at : at + subjects]) for at in range(0, words, subjects)]
def estimate(columns: Sequence[Sequence[float]], names: Sequence[str], statistic: Callable[..., Any]) -> Figure:
    """A statistic of the columns' means, with its 95 % bootstrap interval over subjects."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    value = statistic(*(math.fsum(column) / len(names) for column in columns)) if names else None
    figure = Figure(value, len(names), len(places))
    if value is None or len(places) < 10:
        return figure if value is None else figure._replace(note="small sample")
    sizes = [len(rows) for rows in places.values()]
    sums = [[math.fsum(column[row] for row in rows) for rows in places.values()] for column in columns]
    found = [statistic(*(math.fsum(pick(one)) / sum(pick(sizes)) for one in sums)) for pick in draws(len(places))]
    ordered = sorted(one for one in found if one is not None)
    if len(ordered) < RESAMPLES:
        return figure._replace(note="not defined in every resample")
    return figure._replace(interval=(ordered[50], ordered[1949]))
def perplexity(nll: Figure) -> Figure:
    """The exp of a mean NLL, as reports print it."""
    if nll.value is None:
        return nll
    value, *ends = (math.exp(one) if one <= LARGEST else None for one in (nll.value, *(nll.interval or ())))
    endless, text = None in ends, "inf" if value is None else None
    interval = None if endless or not ends else tuple(ends)
    return Figure(value, nll.n, nll.subjects, interval,  # type: ignore[arg-type]
                  "the interval is not finite" if endless else nll.note, text)
def measures(rows: Sequence[Any], group: str) -> dict[str, dict[str, Figure]]:
    """Every measure of one group of items, before, after and under the reference."""
    def mean(name: str, when: str, scale: float = 1.0, base: float = 0.0) -> Figure:
        there = [row for row in rows if row[when][name] is not None]
        names = [row["subject"] for row in there]
        return estimate([[row[when][name] for row in there]], names, lambda m: base + scale * m)
    def against(statistic: Callable[[float, float], float | None], when: str) -> Figure:
        columns = [[row[at]["accuracy"] for row in rows] for at in (when, "reference")] if when != "reference" else []
        names = [row["subject"] for row in rows] if columns else []
        return estimate(columns, names, lambda m, r: statistic(100.0 - 100.0 * m, 100.0 - 100.0 * r))
    forget = group.startswith("forget")
    kinds: dict[str, Callable[[str], Figure]] = {
        "success": lambda when: mean("accuracy", when, *((-100.0, 100.0) if forget else (100.0,))),
        "perplexity": lambda when: perplexity(mean("nll", when)),
        "rouge_l_forced": lambda when: mean("rouge_l_forced", when),
        "rouge_l_free": lambda when: mean("rouge_l_free", when),
        "fact_in_answer": lambda when: mean("fact", when, 100.0),
        CUS: lambda when: against(lambda us, ref: 100.0 * min(1.0, max(0.0, us) / ref) if ref > 0 else None, when),
        GAP: lambda when: against(lambda us, ref: us - ref, when),
    }
    return {name: {when: one(when) for when in WHENS} for name, one in kinds.items()
            if forget or name not in (CUS, GAP)}
def same(ours: Figure, theirs: Any, *, exp: bool) -> bool:
    """Whether a figure is printed as we get it; perplexities may differ in their last digits, as exp does."""
    def near(one: Any, other: Any) -> bool:
        return one == other or (exp and None not in (one, other) and math.isclose(one, other, rel_tol=1e-12))
    ends, printed = ours.interval or (), theirs["interval"] or ()
    close = len(ends) == len(printed) and all(map(near, (ours.value, *ends), (theirs["value"], *printed)))
    return close and all(theirs[name] == getattr(ours, name) for name in ("n", "subjects", "note", "text"))
def scope_of(items: Sequence[Any]) -> dict[str, dict[str, dict[str, Figure]]]:
    """Measures by group, of a domain's items or a request's."""
    groups = {group for item in items for group in item["groups"]}
    return {group: measures([item for item in items if group in item["groups"]], group) for group in sorted(groups)}

@refusing("report-malformed", "The report or its scores are not of a form that this program knows.")
def check_figures(report: Any, scores: Any) -> None:
    """Means and intervals that the report prints are those of the scores, and its verdict is that of the bounds."""
    items, checks = scores["items"], report["gate"]["checks"]
    if not report["schema"].startswith("grail.report/") or scores["schema"] != "grail.scores/1":
        raise ValueError("another schema")
    scopes = {d: scope_of([i for i in items if i["domain"] == d]) for d in {i["domain"] for i in items}}
    ours, theirs = ({(d, g, m, w): figure for d, groups in found.items() for g, by in groups.items()
                     for m, of in by.items() for w, figure in of.items()} for found in (scopes, report["metrics"]))
    for at in sorted(ours.keys() | theirs.keys()):
        if at not in ours or at not in theirs or not same(ours[at], theirs[at], exp=at[2] == "perplexity"):
            raise Rejected("figures-differ", f"The report prints another {' '.join(at)} than its scores give.")
    for request in report["requests"]:
        scopes[f"request {request['id']}"] = scope_of([i for i in items if i["request"] == request["id"]])
    for check in checks:
        name, value, bound = check["name"], check["value"], check["bound"]
        where = f"{name} of {check['scope']}"
        if name in GATED:
            measure = CUS if name.endswith("_cus") else GAP if name.endswith("_gap") else "success"
            found = scopes[check["scope"]][GATED[name]][measure]["after"]
            if (found.value, found.n, [*(found.interval or ())]) != (value, check["n"], check["interval"] or []):
                raise Rejected("figures-differ", f"The check {where} prints another figure than the scores give.")
        held = value is not None and (value >= bound if check["comparison"] == ">=" else value <= bound)
        if held != check["ok"]:
            raise Rejected("verdict-differs", f"The check {where} is printed as held or not, against its bound.")
    if report["gate"]["ok"] and not (checks and all(check["ok"] for check in checks)):
        raise Rejected("verdict-differs", "The report says that the gate was passed, and not every check held.")
class Answer(NamedTuple):
    """To one question: yes, no, or not asked (None); in words; and of which kind a no is."""
    question: str
    ok: bool | None
    said: str
    kind: str | None = None
YES = {"archive": "The archive is as it was issued.",
       "signature": "The files are those that were signed by {}, who says on {}.",
       "figures": "Means, intervals, verdict and manifests are those that scores, bounds and adapters give.",
       "adapter": "The adapter on this disk is the one that the report is about.",
       "log": "The request's events and this report are in the log of {}, which had {} leaves.",
       "since": "That log continues the checkpoint kept."}

def verify(raw: bytes, keys: str, adapter: Path | None, since: bytes | None, *, unsafe: bool = False) -> list[Answer]:
    """Every question, in the order of YES. What depends on a no is not asked, nor what nothing was given for."""
    answers: dict[str, Answer] = {}
    def ask(question: str, step: Callable[..., Any], *given: Any) -> Any:
        try:
            found = step(*given)
            answers[question] = Answer(question, True, YES[question].format(*found if isinstance(found, tuple) else ()))
        except Rejected as error:
            answers[question], found = Answer(question, False, str(error), error.kind), None
        return found
    def signed() -> tuple[str, str, bytes, Sequence[Key]]:
        statement, payload, who = open_bundle(files, known := parse_keys(keys, unsafe=unsafe))
        return who, statement["predicate"]["issued_at"], payload, known
    def figures() -> None:
        report = parse_json(files[REPORT], "report-malformed", REPORT)
        check_figures(report, parse_json(files[SCORES], "report-malformed", SCORES))
        check_manifests(files, report["model"])
    files = ask("archive", read_bundle, raw)
    if files and (found := ask("signature", signed)):
        ask("figures", figures)
        if adapter:
            ask("adapter", check_adapter, adapter, files.get(NEW, b"null"))
        log = ask("log", check_log, files, *found[2:])
        if log and since is not None:
            ask("since", lambda: check_since(open_checkpoint(since, found[3]), *log[2:]))
    return [answers.get(question, Answer(question, None, "not checked")) for question in YES]

def main(argv: Sequence[str] | None = None) -> int:
    """Answer on standard output; the code of the first no, or 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path, help="report.zip")
    parser.add_argument("--key", required=True, help="a file of verifier keys, or one key: name+hash+base64")
    parser.add_argument("--adapter", type=Path, help="directory of the new adapter version")
    parser.add_argument("--since", type=Path, help="an earlier checkpoint of the log, which you kept")
    parser.add_argument("--allow-unsafe-key", action="store_true", help="accept a development key")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    def read(path: Path, most: int) -> bytes:
        with path.open("rb") as file:
            return file.read(most + 1)
    try:
        listed = b"" if KEY.fullmatch(given.key) else read(Path(given.key), MAX_SMALL_BYTES)
        keys = listed.decode("utf-8", "replace") or given.key
        since = read(given.since, MAX_SMALL_BYTES) if given.since else None
        raw = read(given.bundle, MAX_BUNDLE_BYTES)
        answers = verify(raw, keys, given.adapter, since, unsafe=given.allow_unsafe_key)
    except OSError as error:
        answers = [Answer("files", False, f"{error.filename} can not be read: {error.strerror}.", "unreadable")]
    code = next((CODES[answer.kind] for answer in answers if answer.kind), 0)
    marks = {True: "yes", False: "NO", None: "-"}
    lines = [f"{marks[answer.ok]:<4}{answer.question:<10} {answer.said}" for answer in answers]
    found = {"ok": code == 0, "code": code, "answers": [answer._asdict() for answer in answers]}
    shown = json.dumps(found) if given.json else "\n".join(lines)
    sys.stdout.write(shown.encode("ascii", "backslashreplace").decode() + "\n")
    return code

if __name__ == "__main__":
    sys.exit(main())
