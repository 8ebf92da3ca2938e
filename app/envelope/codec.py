"""Content of rows, sealed and opened: many values at once, with as many keys as there are requests in one question."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.envelope.errors import Malformed
from app.envelope.keyring import Keyring
from app.envelope.sealing import DataKey, Place, open_sealed, seal


@dataclass(frozen=True, slots=True)
class Kind:
    """How a value becomes bytes and comes back."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def _to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


TEXT = Kind(str.encode, bytes.decode)
JSON = Kind(_to_json, json.loads)

Spot = tuple[uuid.UUID, Place]
"""The id of a value's key, and its place."""


class Codec:
    """Seals and opens values with the keys of a ring."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring

    def seal(self, values: Sequence[tuple[Spot, Any]], kind: Kind = TEXT) -> list[bytes]:
        """Each value for its spot, with keys that are made where there are none. Raises what `Keyring.create` does."""
        keys = self.keyring.create({key_id for (key_id, _), _ in values})
        return [sealed(keys, spot, value, kind) for spot, value in values]

    def open(self, values: Sequence[tuple[Spot, bytes]], kind: Kind = TEXT) -> list[Any]:
        """What was sealed for each spot. Raises Malformed, WrongKeyOrPlace, and what `Keyring.get` does."""
        keys = self.keyring.get({key_id for (key_id, _), _ in values})
        return [_decoded(kind, open_sealed(keys[key_id], place, value)) for (key_id, place), value in values]

    def open_one(self, spot: Spot, value: bytes, kind: Kind = TEXT) -> Any:
        """The same of one value, quickest where its key is at hand."""
        key_id, place = spot
        key = self.keyring.held(key_id) or self.keyring.get([key_id])[key_id]
        return _decoded(kind, open_sealed(key, place, value))

    def warm(self, key_ids: Iterable[uuid.UUID]) -> Collection[uuid.UUID]:
        """Fetch these keys in one question, so that opening their rows one by one asks no more; those that were not
        destroyed. More than the ring holds are not kept."""
        return self.keyring.readable(list(key_ids)).keys()


def sealed(
    keys: Mapping[uuid.UUID, DataKey], spot: Spot, value: Any, kind: Kind, nonce: bytes | None = None
) -> bytes:
    """A value for its spot, with a key that is at hand."""
    key_id, place = spot
    return seal(keys[key_id], place, kind.encode(value), nonce)


def _decoded(kind: Kind, content: bytes) -> Any:
    try:
        return kind.decode(content)
    except ValueError:
        raise Malformed("what was sealed is not of its column's kind") from None
