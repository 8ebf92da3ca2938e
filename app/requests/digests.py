"""Digests of contents as they are stored: blind indexes under the served model's key, which is not in the database.

A digest is SHA-256 of normalised text as long as it is in memory. Whoever had that from the database could test guesses
of what somebody asked to have forgotten, so what is stored is keyed (`app.envelope.blind`). It is keyed from the digest
and not from the text: rows from before, whose text may be gone, are keyed as well, all of a model at once, while the
model is held alone (`key_old`). So within a model digests are of one kind, and statements compare them as before.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from sqlalchemy.orm import Session

from app.envelope.blind import blind
from app.envelope.columns import codec_of
from app.envelope.keyring import Keyring
from app.requests import digests_repository as repository
from app.requests.conflicts import content_digest
from app.requests.entries import Entry

MARK = "k"
"""What keyed digests begin with, and hexadecimal ones never do."""
CONTENT, ASKED = "content", "asked"
AT_ONCE = 5000
"""Digests of one statement."""


Digests = Mapping[tuple[str, str], str]
"""Of contents, by prompt and completion."""


class Model(Protocol):
    """A served model, as far as it says how digests are written."""

    @property
    def id(self) -> uuid.UUID:
        """Whose key it is."""
        ...

    @property
    def is_keyed(self) -> bool:
        """Whether its digests are keyed already."""
        ...


def stored(keyring: Keyring, model: Model, digests: Iterable[str], field: str = CONTENT) -> dict[str, str]:
    """Each digest as rows of this model have it. Raises KeyStoreAway, NoKeyEncryptionKey."""
    plain = sorted(set(digests))
    if not model.is_keyed or not plain:
        return dict(zip(plain, plain, strict=True))
    return _keyed(keyring, model.id, plain, field)


def of_contents(keyring: Keyring, model: Model, contents: Iterable[tuple[str, str]]) -> Digests:
    """The digests of contents as rows of this model have them. Raises what `stored` does."""
    plain = {pair: content_digest(*pair) for pair in contents}
    of = stored(keyring, model, plain.values())
    return {pair: of[digest] for pair, digest in plain.items()}


def stored_fingerprint(keyring: Keyring, model: Model, fingerprint: str | None) -> str | None:
    """A fingerprint of what is asked, in the same way."""
    return None if fingerprint is None else stored(keyring, model, [fingerprint], ASKED)[fingerprint]


def as_stored(keyring: Keyring, model: Model, found: Sequence[Entry]) -> list[Entry]:
    """The entries of a request with their digests as rows have them."""
    of = stored(keyring, model, (entry.digest for entry in found))
    return [dataclasses.replace(entry, digest=of[entry.digest]) for entry in found]


def key_old(session: Session, now: datetime) -> int:
    """Key the digests of one model from before, of all its rows, while nobody else decides about them. How many rows; 0
    once there is no such model. Raises KeyStoreAway, NoKeyEncryptionKey."""
    model = repository.plain_model(session)
    if model is None:
        return 0
    keyring, rows = codec_of(session).keyring, 0
    while plain := repository.plain_digests(session, model.id, MARK, AT_ONCE):
        rows += repository.key_contents(session, model.id, _keyed(keyring, model.id, plain, CONTENT))
    while plain := repository.plain_fingerprints(session, model.id, MARK, AT_ONCE):
        repository.key_fingerprints(session, model.id, _keyed(keyring, model.id, plain, ASKED))
    model.content_keyed_at = now
    session.flush()
    return rows + 1


def _keyed(keyring: Keyring, model_id: uuid.UUID, plain: Sequence[str], field: str) -> dict[str, str]:
    indexes = blind(keyring, model_id, field, plain)
    return {one: MARK + index[1:] for one, index in zip(plain, indexes, strict=True)}
