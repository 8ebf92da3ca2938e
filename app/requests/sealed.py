"""Rows as they are stored: what people wrote sealed, subjects as blind indexes."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from app.envelope.blind import blind
from app.envelope.codec import Codec
from app.envelope.columns import seal_rows
from app.envelope.sealing import DataKey
from app.tables import Example
from grail.types import Segment

SUBJECT = "subject"


def sealed_examples(
    codec: Codec, served_model_id: uuid.UUID, key: DataKey, rows: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows with a `content`, of one request: what is to be forgotten is sealed under `key`, what is retained under one
    apart, since it outlives the rest. Raises KeyStoreAway, NoKeyEncryptionKey."""
    rows = list(rows)
    index = subject_indexes(codec, served_model_id, (row["content"].subject for row in rows))
    apart = codec.keyring.fresh() if any(row["segment"] is Segment.RETAIN for row in rows) else key
    keys = {Segment.FORGET: key.id, Segment.RETAIN: apart.id}
    return seal_rows(
        codec, Example,
        ({**row, "key_id": keys[row["segment"]], "subject_index": index[row["content"].subject]} for row in rows),
        {key.id: key, apart.id: apart},
    )  # fmt: skip


def subject_indexes(codec: Codec, served_model_id: uuid.UUID, subjects: Iterable[str]) -> dict[str, str]:
    """The blind index of each subject. Raises what `Keyring.create` does."""
    named = sorted(set(subjects))
    return dict(zip(named, blind(codec.keyring, served_model_id, SUBJECT, named), strict=True))
