"""C2SP signed notes: text that one or several keys sign, with a line for each signature. Read by `app.trust.verify`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.trust.keys import Signer
from app.trust.verify import (
    MAX_SIGNATURES,
    MAX_SMALL_BYTES,
    Key,
    base64_of,
    parse_note,
    signer_of,
)

__all__ = ["NotANote", "open_note", "parse_note", "sign_note"]

TEXT = re.compile(r"[^\x00-\x09\x0b-\x1f]+\n")


class NotANote(ValueError):
    """A text that can not be signed as a note. The caller's mistake."""


def sign_note(text: str, signers: Sequence[Signer]) -> bytes:
    """The note: text, empty line, a signature line each. Several signers are how keys are rotated.

    Raises NotANote when the text does not end with a newline or holds control characters, is larger than 1 MiB, or when
    there is no signer.
    """
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise NotANote("the text is not Unicode") from None
    if not TEXT.fullmatch(text) or not 0 < len(signers) <= MAX_SIGNATURES:
        raise NotANote("expected text that ends with a newline, without control characters, and a signer")
    lines = [f"\u2014 {one.name} {base64_of(bytes.fromhex(one.key_id) + one.sign(raw))}\n" for one in signers]
    note = (text + "\n" + "".join(lines)).encode()
    if len(note) > MAX_SMALL_BYTES:
        raise NotANote("the note is larger than what is read")
    return note


def open_note(raw: bytes, keys: Sequence[Key]) -> str:
    """The text of a note that one of the keys signed. Raises Rejected: checkpoint-malformed, unknown-key,
    bad-signature,
    key-refused."""
    text, signatures = parse_note(raw)
    signer_of("the note", text.encode(), signatures, keys)
    return text
