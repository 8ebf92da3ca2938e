"""Where a leaf stands in the log, for those who show it: its number, and the first checkpoint that covers it. Both stay
as they are once they are there."""

from __future__ import annotations

from typing import Any

from app.audit_log import repository
from app.audit_log.repository import Reading


def place_of(reading: Reading, audit_id: int | None) -> dict[str, Any] | None:
    """The number of a leaf of the trail in the log, counted from 0, with size and root of the first checkpoint over it
    (None while none is signed); None while the leaf has no number."""
    position = None if audit_id is None else repository.position_in_log(reading, audit_id)
    if position is None:
        return None
    found = repository.first_checkpoint_over(reading, position)
    signed = None if found is None else {"size": found.size, "root": bytes(found.root).hex()}
    return {"position": position, "checkpoint": signed}


def leaf_about(reading: Reading, event: str, subject_id: str) -> int | None:
    """The trail's id of the last leaf that says that this happened to something; None once it has expired."""
    return repository.last_about(reading, event, subject_id)
