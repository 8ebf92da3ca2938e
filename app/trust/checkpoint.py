"""C2SP checkpoints of a log: origin, size and root hash in a signed note. Read by `app.trust.verify`.

A log must never sign two checkpoints of which the larger does not continue the smaller: before one is signed, the
caller
proves to itself that it continues the last (`sign_next`).
"""

from __future__ import annotations

from collections.abc import Sequence

from app.trust.keys import Signer
from app.trust.notes import NotANote, sign_note
from app.trust.verify import Head, Rejected, base64_of, open_checkpoint, parse_head, verify_consistency

__all__ = ["Head", "open_checkpoint", "parse_head", "sign_checkpoint", "sign_next"]


def text_of(head: Head) -> str:
    """The text that is signed. Raises NotANote for an origin, size, root or extension that no checkpoint can have."""
    text = "".join(f"{line}\n" for line in (head.origin, head.size, base64_of(head.root), *head.extensions))
    try:
        if parse_head(text) != head:
            raise NotANote("the origin, or an extension line, is none of a checkpoint")
    except Rejected:
        raise NotANote("the origin, size or root is none of a checkpoint") from None
    return text


def sign_checkpoint(head: Head, signers: Sequence[Signer]) -> bytes:
    """The checkpoint. Raises NotANote also when no signer has the log's name."""
    if not any(signer.name == head.origin for signer in signers):
        raise NotANote(f"a checkpoint of {head.origin} needs a signer of that name")
    return sign_note(text_of(head), signers)


def sign_next(head: Head, last: Head, path: Sequence[bytes], signers: Sequence[Signer]) -> bytes:
    """The checkpoint after `last`, which it continues by the consistency proof `path`. Raises Rejected(log-forked)."""
    if head.origin != last.origin:
        raise NotANote("the last checkpoint is of another log")
    verify_consistency(last.size, last.root, head.size, head.root, path)
    return sign_checkpoint(head, signers)
