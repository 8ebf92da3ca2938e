"""Verify the bundle of an erasure report, offline: no network, no server, nothing of ours but this one file.

    python verify.py report.zip --key KEYS [--adapter DIR] [--since OLD_CHECKPOINT] [--json]

Needs Python 3.11 and `cryptography`. Get the key by another way than the bundle; docs/verify.md says what answers mean.
`grail verify` runs this very file. Bytes are hashed as they lie. Content is read once a signature by a given key covers
it. What is not as it was issued, to the byte, is `Rejected`; kinds are exit codes.
"""
# ruff: noqa: E401, I001  (and one blank line between parts: whoever audits this reads it whole, so it is kept short)
# fmt: off
import argparse, base64, contextlib, functools, hashlib, json, math, operator, os, re, struct, sys, zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

CODES = {  # exit codes; 0 is well, 2 a wrong call
    "unreadable": 10, "bundle-malformed": 11, "bundle-damaged": 12,
    "key-malformed": 20, "unknown-key": 21, "key-refused": 22, "unsafe-key": 23, "bad-signature": 24,
    "statement-malformed": 25, "content-changed": 26, "checkpoint-malformed": 30, "proof-malformed": 31,
    "not-in-log": 32, "not-sealed": 33, "log-forked": 40, "no-consistency-proof": 41, "other-log": 42,
    "adapter-differs": 50, "manifest-wrong": 51, "figures-differ": 60, "verdict-differs": 61, "report-malformed": 62}
MAX_BUNDLE_BYTES, MAX_MEMBERS, MAX_SMALL_BYTES, MAX_SIGNATURES = 256 << 20, 64, 1 << 20, 100
STATEMENT, LOG, CHECKPOINT, EVENTS, REPORT = "statement.json", "log.json", "checkpoint", "events.jsonl", "report.json"
SCORES, NEW, OLD = "scores.json", "adapter/new.json", "adapter/old.json"
MEMBER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63})?", re.ASCII)
PAYLOAD_TYPE, STATEMENT_TYPE = "application/vnd.in-toto+json", "https://in-toto.io/Statement/v1"
REPORT_PREDICATE, SEAL, LOG_SCHEMA, UNSAFE = "urn:grail:predicate:report:1", "report.sealed", "grail.log/1", "unsafe-"
NAME = r"[^\s+\x00-\x1f\x7f]{1,200}"
KEY = re.compile(rf"({NAME})\+([0-9a-f]{{8}})\+([\w+/=]{{44}})((?: (?:not-before|not-after|revoked)=\S+)*)", re.ASCII)
NOTE = re.compile(rf"([^\x00-\x09\x0b-\x1f]+\n)\n((?:\u2014 {NAME} \S+\n){{1,{MAX_SIGNATURES}}})")
HEAD = re.compile(rf"({NAME})\n(0|[1-9][0-9]{{0,17}})\n(.{{44}})\n((?:[^\n]+\n)*)")
ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, InvalidSignature)
class Rejected(Exception):
    """Evidence that does not hold: `kind` (one of CODES) and a sentence."""
    def __init__(self, kind: str, said: str) -> None:
        self.kind, self.code = kind, CODES[kind]
        super().__init__(said)
def require(holds: object, kind: str = "", said: str = "") -> None:
    """Raise Rejected, or ValueError where whoever reads the whole says of which kind it is, unless it holds."""
    if not holds:
        raise Rejected(kind, said) if kind else ValueError
@contextlib.contextmanager
def refusing(kind: str, said: str) -> Iterator[None]:
    """Whatever content of another shape raises while it is read (ODD) becomes Rejected. Also a decorator."""
    try:
        yield
    except ODD:
        raise Rejected(kind, said) from None
def parse_json(raw: bytes) -> Any:
    """A JSON value in which no name repeats, and no number is none. Raises one of ODD."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        require(len(found := dict(pairs)) == len(pairs))
        return found
    return json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=int)
def wrapped(value: Any) -> bytes:
    """The one form of what no signature covers (envelope, proofs): ASCII, sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
def sha256_of(raw: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(raw).hexdigest()
def base64_of(raw: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(raw).decode()
def unbase64(text: Any, size: int | None = None) -> bytes:
    """Standard base64 in its one form. Raises ValueError, TypeError."""
    raw = base64.b64decode(text, validate=True)
    require(base64_of(raw) == text and size in (None, len(raw)))
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
def key_id(name: str, public: bytes) -> str:
    """C2SP: the first four bytes of SHA-256 over name, newline, algorithm (1: Ed25519) and key, in hex."""
    return sha256_of(name.encode() + b"\n\x01" + public)[:8]
@refusing("key-malformed", "A key is not name+hash+base64 of an Ed25519 key, perhaps with times.")
def parse_key(line: str) -> Key:
    """`name+hash+base64`, then perhaps `not-before=`, `not-after=`, `revoked=` and a time with its zone."""
    name, found, data, rest = KEY.fullmatch(line).groups()  # type: ignore[union-attr]
    raw, said = unbase64(data, 33), dict(part.split("=") for part in rest.split())
    times = {word: datetime.fromisoformat(value) for word, value in said.items()}
    require(raw[0] == 1 and found == key_id(name, raw[1:]) and all(time.tzinfo for time in times.values()))
    return Key(name, found, raw[1:], times)
def parse_keys(text: str, *, unsafe: bool = False) -> tuple[Key, ...]:
    """Keys, one a line; empty lines and those that begin with # are passed over."""
    keys = tuple(parse_key(one) for one in map(str.strip, text.splitlines()) if one and not one.startswith("#"))
    safe = unsafe or not any(key.name.startswith(UNSAFE) for key in keys)
    require(keys and len({key[:2] for key in keys}) == len(keys), "key-malformed", "There is no key, or one is twice.")
    require(safe, "unsafe-key", "With a development key anybody can sign. See --allow-unsafe-key.")
    return keys
Signatures = Sequence[tuple[str, bytes]]  # who (`name+id`), bytes; not verified
def signer_of(what: str, message: bytes, signed: Signatures, keys: Sequence[Key], at: datetime | None = None) -> str:
    """Which known key signed. Unknown ones, and those not valid then, are passed over; a wrong signature spoils all."""
    known = {f"{key.name}+{key.id}": key for key in keys}
    ours = [(who, raw) for who, raw in signed if who in known]
    for who, raw in ours:
        with refusing("bad-signature", f"The signature of {what} by {who} is not of these bytes."):
            Ed25519PublicKey.from_public_bytes(known[who].public).verify(raw, message)
    require(ours, "unknown-key", f"No given key signed {what}, but {', '.join(who for who, _ in signed)}.")
    good = [who for who, _ in ours if known[who].counts(at)]
    require(good, "key-refused", f"The key that signed {what} was revoked or not valid then: {ours[0][0]}.")
    return good[0]
@refusing("checkpoint-malformed", "A checkpoint is not a signed note.")
def parse_note(raw: bytes) -> tuple[str, Signatures]:
    """A C2SP signed note: text with its last newline, and signatures, not verified."""
    require(len(raw) <= MAX_SMALL_BYTES)
    text, tail = NOTE.fullmatch(raw.decode()).groups()  # type: ignore[union-attr]
    signatures = [(name, unbase64(data)) for _, name, data in (line.split(" ") for line in tail[:-1].split("\n"))]
    require(all(len(blob) > 4 for _, blob in signatures))
    return text, [(f"{name}+{blob[:4].hex()}", blob[4:]) for name, blob in signatures]
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
    inner = (place ^ last).bit_length()  # up to there what is on the right may be missing; from there on all is left
    if len(hashes) != 1 + inner + (place >> inner).bit_count():
        return None
    old = new = hashes[0]
    for level, step in enumerate(hashes[1:]):
        if level >= inner or place >> level & 1:
            old, new = node_hash(step, old), node_hash(step, new)
        else:
            new = node_hash(new, step)
    return old, new
def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, 2.1.3.2: the leaf with this hash stands at `index` of the tree of `size` leaves with that root."""
    found = _climb(index, size - 1, [leaf, *path]) if 0 <= index < size else None
    require(found and found[1] == root, "not-in-log", f"Leaf {index} of {size} is not in the log of that root.")
def verify_consistency(size: int, root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """RFC 9162, 2.1.4.2: the tree of `new_size` leaves begins with that of `size`."""
    if size in (0, new_size):
        holds = not path and root == (new_root if size == new_size else hashlib.sha256().digest())
    else:
        level, hashes = (size & -size).bit_length() - 1, [root] * (size & (size - 1) == 0) + [*path]
        holds = 0 < size < new_size and _climb(size - 1 >> level, new_size - 1 >> level, hashes) == (root, new_root)
    require(holds, "log-forked", f"A log of {new_size} leaves does not continue that of {size}: its past differs.")
def pae(payload: bytes) -> bytes:
    """What DSSE signs: the payload's type and the payload, each with its length in front."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
@refusing("statement-malformed", "The statement is not one of in-toto, with its time, in a DSSE envelope of one form.")
def open_envelope(raw: bytes, keys: Sequence[Key]) -> tuple[Any, bytes, str]:
    """Statement, its bytes, and who signed it, by a key that was valid at the time that the statement names, if any."""
    value = parse_json(raw[: MAX_SMALL_BYTES + 1])
    payload, signed = unbase64(value["payload"]), [(s["keyid"], unbase64(s["sig"])) for s in value["signatures"]]
    require(len(signed) <= MAX_SIGNATURES)
    require(wrapped(value) == raw and value.keys() == {"payload", "payloadType", "signatures"})
    require(value["payloadType"] == PAYLOAD_TYPE and all(one.keys() == {"keyid", "sig"} for one in value["signatures"]))
    signer_of("the statement", pae(payload), signed, keys)
    statement = parse_json(payload)
    at = datetime.fromisoformat(statement["predicate"]["issued_at"])
    require(statement["_type"] == STATEMENT_TYPE and at.tzinfo)
    return statement, payload, signer_of("the statement", pae(payload), signed, keys, at)
@refusing("bundle-malformed", "This is not the zip of a bundle as it was issued, with all its files.")
def read_bundle(raw: bytes) -> dict[str, bytes]:
    """Files of a bundle by name. What its writer would not write is refused: nothing expands, nothing can be hidden."""
    files, index, at = dict[str, bytes](), b"", 0
    require(len(raw) <= MAX_BUNDLE_BYTES)
    while raw[at : at + 4] == b"PK\3\4":
        _, size, _, length = struct.unpack("<3IH", raw[at + 14 : at + 28].ljust(14))
        name, data = raw[at + 30 : at + 30 + length].decode("ascii"), raw[at + 30 + length : at + 30 + length + size]
        require(MEMBER.fullmatch(name) and name > max(files, default="") and len(files) < MAX_MEMBERS)
        fixed = struct.pack("<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), length, 0)
        require(raw[at + 4 : at + 30] == fixed, "bundle-damaged", f"The archive was damaged or changed in {name}.")
        index += b"PK\1\2\x14\0" + fixed + struct.pack("<3H2I", 0, 0, 0, 0, at) + name.encode()
        files[name], at = data, at + 30 + length + size
    require({STATEMENT, LOG, CHECKPOINT, EVENTS, REPORT, SCORES} <= set(files))
    end = index + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(files), len(files), len(index), at, 0)
    require(raw[at:] == end, "bundle-damaged", "The archive was damaged or changed around its files.")
    return files
@refusing("statement-malformed", "The statement is not one about a report's files.")
def open_bundle(files: Mapping[str, bytes], keys: Sequence[Key]) -> tuple[str, str, bytes, Sequence[Key]]:
    """Who signed and when, and what, once it names exactly these files, but for the wrappers; and the keys."""
    statement, payload, who = open_envelope(files[STATEMENT], keys)
    digests = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
    require(statement["predicateType"] == REPORT_PREDICATE and len(digests) == len(statement["subject"]))
    found = {name: sha256_of(data) for name, data in files.items() if name not in (STATEMENT, LOG, CHECKPOINT)}
    for name in sorted(found.keys() | digests.keys()):
        require(found.get(name) == digests.get(name), "content-changed", f"{name} is not the file that was signed.")
    return who, statement["predicate"]["issued_at"], payload, keys
class Proof(NamedTuple):
    """Of a leaf: its index and path. Of an earlier state: its size, path and root."""
    number: int
    path: tuple[bytes, ...]
    root: bytes = b""
@refusing("proof-malformed", f"{LOG} is not in its one form.")
def parse_log(raw: bytes) -> tuple[list[Proof], str, list[Proof]]:
    """Proofs of the events in their order, then of the seal; the seal; earlier states. Not verified."""
    value = parse_json(raw)
    leaves, earlier = ([Proof(number, tuple(unbase64(step, 32) for step in path), unbase64(root))
                        for number, root, *path in value[name]] for name in ("leaves", "earlier"))
    require(wrapped(value) == raw and value.keys() == {"earlier", "leaves", "schema", "seal"})
    require(value["schema"] == LOG_SCHEMA and not any(one.root for one in leaves))
    require({type(one.number) for one in leaves + earlier} == {int})
    return leaves, value["seal"], earlier
@refusing("not-sealed", "The last leaf does not seal this statement.")
def check_log(files: Mapping[str, bytes], payload: bytes, keys: Sequence[Key]) -> tuple[str, int, Head, list[Proof]]:
    """The request's events and the seal of this statement are in the log of a signed checkpoint. Its earlier states."""
    head, (proofs, seal, earlier) = open_checkpoint(files[CHECKPOINT], keys), parse_log(files[LOG])
    *events, end = files[EVENTS].split(b"\n")
    require(not end and len(proofs) - 1 == len(events), "proof-malformed", "Not one proof for each event and the seal.")
    for leaf, proof in zip([*events, seal.encode()], proofs, strict=True):
        verify_inclusion(proof.number, head.size, leaf_hash(leaf), proof.path, head.root)
    value = json.loads(seal)
    require((value["event"], value["fields"]["statement"]) == (SEAL, sha256_of(payload)))
    for one in earlier:
        verify_consistency(one.number, one.root, head.size, head.root, one.path)
    return head.origin, head.size, head, earlier
def check_since(old: Head, head: Head, earlier: Sequence[Proof]) -> None:
    """The log of `head` continues the checkpoint that was kept."""
    path = {one.number: one.path for one in earlier} | {0: (), head.size: ()}
    require(old.origin == head.origin, "other-log", f"The kept checkpoint is of {old.origin}, not {head.origin}.")
    require(old.size in path, "no-consistency-proof", f"No proof from {old.size} to {head.size} leaves: ask for it.")
    verify_consistency(old.size, old.root, head.size, head.root, path[old.size])
@refusing("adapter-differs", "The report names no new adapter to compare with.")
def check_adapter(directory: Path, raw: bytes) -> None:
    """The directory holds the manifest's files, to the byte, and nothing else but the manifest and a signature."""
    wanted, there = {one["file"]: one["sha256"] for one in json.loads(raw)["files"]}, {*os.listdir(directory)}
    wanted |= {"manifest.json": sha256_of(raw)} if "manifest.json" in there else {}
    for name in sorted(wanted.keys() | there - {"model.sig"}):
        require(name in there and name in wanted, "adapter-differs", f"{name} is on disk or in the manifest only.")
        with (directory / name).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        require(digest == wanted[name], "adapter-differs", f"{name} on this disk is not what the manifest names.")
WHENS, LARGEST = ("before", "after", "reference"), 709.782712893384  # exp of more overflows
CUS, GAP, RS = "calibrated_success", "forget_gap", ("retain", "success")
GATED = {"min_cus": ("forget", CUS), "min_request_cus": ("forget", CUS), "min_earlier_cus": ("forget_earlier", CUS),
         "min_paraphrase_cus": ("forget_paraphrase", CUS), "max_forget_gap": ("forget", GAP), "min_rs": RS,
         "max_request_forget_gap": ("forget", GAP), "min_request_rs": RS}
def forgotten(accuracy: float) -> float:
    """Success in per cent on what was to be forgotten."""
    return 100.0 - 100.0 * accuracy
def calibrated(accuracy: float, reference: float) -> float | None:
    """The same in per cent of that of a model that never knew it."""
    us, ref = forgotten(accuracy), forgotten(reference)
    return 100.0 * min(1.0, max(0.0, us) / ref) if ref > 0 else None
RETAIN: dict[str, tuple[str, Callable[..., float | None]]] = {  # the score, and what of its mean
    "success": ("accuracy", lambda mean: 100.0 * mean), "perplexity": ("nll", float),
    "rouge_l_forced": ("rouge_l_forced", float), "rouge_l_free": ("rouge_l_free", float),
    "fact_in_answer": ("fact", lambda mean: 100.0 * mean)}
FORGET = RETAIN | {"success": ("accuracy", forgotten), CUS: ("accuracy", calibrated),
                   GAP: ("accuracy", lambda mean, reference: forgotten(mean) - forgotten(reference))}
@functools.lru_cache(maxsize=8)
def draws(subjects: int) -> list[Callable[[Sequence[Any]], tuple[Any, ...]]]:
    """For each of 2000 resamples what picks its subjects, at least two, from a list of all."""
    words = 2000 * subjects
    stream = b"".join(hashlib.sha256(struct.pack(">2Q", 0, block)).digest() for block in range(-(-words // 4)))
    drawn = [word % subjects for word in struct.unpack(f">{words}Q", stream[: 8 * words])]
    return [operator.itemgetter(*drawn[at : at + subjects]) for at in range(0, words, subjects)]
def estimate(rows: Sequence[Any], name: str, when: str, field: str, statistic: Callable[..., Any]) -> dict[str, Any]:
    """A statistic of a score's means, with its 95 % bootstrap interval over subjects, as reports print it."""
    whens, places = (when, "reference") if name in (CUS, GAP) else (when,), dict[str, list[Any]]()
    there = [row for row in rows if len({*whens}) == len(whens) and (row[when][field] is not None or whens[1:])]
    def shown(one: float) -> float | None:
        return one if name != "perplexity" else math.exp(one) if one <= LARGEST else None
    for row in there:
        places.setdefault(row["subject"], []).append(row)
    sums = [[math.fsum(row[at][field] for row in of) for of in places.values()] for at in whens]
    sizes = [len(of) for of in places.values()]
    figure = dict[str, Any](value=None, text=None, interval=None, note=None, n=len(there), subjects=len(places))
    value = statistic(*(math.fsum(row[at][field] for row in there) / len(there) for at in whens)) if there else None
    if value is None:
        return figure
    figure |= {"value": shown(value), "text": "inf" if shown(value) is None else None}
    if len(places) < 10:
        return figure | {"note": "small sample"}
    found = [statistic(*(math.fsum(pick(one)) / sum(pick(sizes)) for one in sums)) for pick in draws(len(places))]
    if None in found:
        return figure | {"note": "not defined in every resample"}
    ends = [shown(sorted(found)[at]) for at in (50, 1949)]
    return figure | ({"note": "the interval is not finite"} if None in ends else {"interval": ends})
def figures_of(scope: str, items: Sequence[Any]) -> dict[tuple[str, ...], Any]:
    """Every figure of a domain's items or a request's, by scope, group, measure and time."""
    groups = {group: [item for item in items if group in item["groups"]] for one in items for group in one["groups"]}
    return {(scope, group, name, when): estimate(rows, name, when, *of) for group, rows in groups.items()
            for name, of in (FORGET if group.startswith("forget") else RETAIN).items() for when in WHENS}
def same(ours: Any, theirs: Any, *, exp: bool) -> bool:
    """Whether a figure is printed as we get it; perplexities may differ in their last digits, as exp does."""
    mine, printed = ([one["value"], *(one["interval"] or [])] for one in (ours, theirs))
    near = functools.partial(math.isclose, rel_tol=1e-12) if exp and None not in mine + printed else operator.eq
    exact = all(theirs[name] == ours[name] for name in ("n", "subjects", "note", "text"))
    return exact and len(mine) == len(printed) and all(map(near, mine, printed))
@refusing("report-malformed", "The report or its scores are not of a form that this program knows.")
def check_report(files: Mapping[str, bytes]) -> None:
    """Means and intervals are those of the scores, the verdict that of the bounds, manifests those of its adapters."""
    report, scores, ours = parse_json(files[REPORT]), parse_json(files[SCORES]), dict[tuple[str, ...], Any]()
    items, checks = scores["items"], report["gate"]["checks"]
    require(report["schema"].startswith("grail.report/") and scores["schema"] == "grail.scores/1")
    for domain in {item["domain"] for item in items}:
        ours |= figures_of(domain, [item for item in items if item["domain"] == domain])
    theirs = {(domain, group, name, when): figure for domain, groups in report["metrics"].items()
              for group, by in groups.items() for name, of in by.items() for when, figure in of.items()}
    for at in sorted(ours.keys() | theirs.keys()):
        holds = at in ours and at in theirs and same(ours[at], theirs[at], exp=at[2] == "perplexity")
        require(holds, "figures-differ", f"The report prints another {' '.join(at)} than its scores give.")
    for request in report["requests"]:
        ours |= figures_of(f"request {request['id']}", [item for item in items if item["request"] == request["id"]])
    for check in checks:
        value, bound, where = check["value"], check["bound"], f"{check['name']} of {check['scope']}"
        if measured := GATED.get(check["name"]):
            found, last = ours[check["scope"], *measured, "after"], ("value", "n", "interval")
            require(all(found[name] == check[name] for name in last), "figures-differ", f"Scores give another {where}.")
        held = value is not None and (value >= bound if check["comparison"] == ">=" else value <= bound)
        require(held == check["ok"], "verdict-differs", f"The bound of {where} is not held or missed as is printed.")
    passed = bool(checks) and all(check["ok"] for check in checks)
    require(passed or not report["gate"]["ok"], "verdict-differs", "The gate was passed, and not every check held.")
    for member, named in ((NEW, report["model"]["candidate_adapter"]), (OLD, report["model"]["start_adapter"])):
        with refusing("manifest-wrong", f"{member} is not the manifest of the adapter that the report names."):
            if named or member in files:
                made = parse_json(files[member])
                over = wrapped({"base": made["base_model_digest"], "files": made["files"]})
                require(sha256_of(over) == made["digest"] == named["digest"])
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
    answers = {question: Answer(question, None, "not checked") for question in YES}
    def ask(question: str, step: Callable[..., Any], *given: Any) -> Any:
        try:
            found = step(*given)
            answers[question] = Answer(question, True, YES[question].format(*found if isinstance(found, tuple) else ()))
        except Rejected as error:
            answers[question], found = Answer(question, False, str(error), error.kind), None
        return found
    files = ask("archive", read_bundle, raw)
    if files and (signed := ask("signature", lambda: open_bundle(files, parse_keys(keys, unsafe=unsafe)))):
        ask("figures", check_report, files)
        if adapter:
            ask("adapter", check_adapter, adapter, files.get(NEW, b"null"))
        log = ask("log", check_log, files, *signed[2:])
        if log and since is not None:
            ask("since", lambda: check_since(open_checkpoint(since, signed[3]), *log[2:]))
    return list(answers.values())
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
    def read(path: Path) -> bytes:
        with path.open("rb") as file:
            return file.read(MAX_BUNDLE_BYTES + 1)
    try:
        keys = given.key if KEY.fullmatch(given.key) else read(Path(given.key)).decode("utf-8", "replace")
        since = read(given.since) if given.since else None
        answers = verify(read(given.bundle), keys, given.adapter, since, unsafe=given.allow_unsafe_key)
    except OSError as error:
        answers = [Answer("files", False, f"{error.filename} can not be read: {error.strerror}.", "unreadable")]
    code = next((CODES[answer.kind] for answer in answers if answer.kind), 0)
    lines = [f"{'NO' if a.kind else 'yes' if a.ok else '-':<4}{a.question:<10} {a.said}" for a in answers]
    found = {"ok": code == 0, "code": code, "answers": [answer._asdict() for answer in answers]}
    shown = json.dumps(found) if given.json else "\n".join(lines)
    sys.stdout.write(shown.encode("ascii", "backslashreplace").decode() + "\n")
    return code
if __name__ == "__main__":
    sys.exit(main())
