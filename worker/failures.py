"""What an exception means for a job: words for people, and whether a further try could help.

Messages are our own or of kinds that are known to hold no request text; of any other exception only the kind and the
line are told.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from safetensors import SafetensorError

from app.errors import ServiceError, line_of
from app.jobs.verdicts import LOWEST_RATE, next_seed
from grail.data.tokenise import TooLong
from grail.localise.gradients import NotPerExample
from grail.localise.regions import NoRetainData
from grail.metrics.likelihood import NonFiniteScore
from grail.train import AdapterDidNotMove, NonFinite
from worker.device import MemoryExhausted


@dataclass(frozen=True, slots=True)
class Failure:
    """`error` is stored and shown; `changes` are settings of the next try, if there is one."""

    error: dict[str, Any]
    retryable: bool
    changes: dict[str, Any] = field(default_factory=dict)


def failure_of(error: BaseException, settings: Mapping[str, Any]) -> Failure:
    """The failure that an exception amounts to. `settings` are those of the run (UnlearnConfig fields)."""
    if isinstance(error, NonFinite):
        slower = {
            "learning_rate": max(float(settings["learning_rate"]) / 2, LOWEST_RATE),
            "seed": next_seed(settings),
        }
        return Failure(
            _words("not-finite", "Training left the numbers", str(error), "It is tried again at half the rate."),
            True,
            slower,
        )
    if isinstance(error, NotPerExample):
        return Failure(_words("adapter-not-localisable", "A layer can not be localised", str(error), _NO_LAYER), False)
    if isinstance(error, ServiceError):
        return Failure(_words(error.type, error.title, error.detail, error.how_to_mend), error.status == 503)
    return _by_kind(error) or Failure(
        {**_words("unexpected", "An unexpected error", f"{type(error).__name__} at {line_of(error)}", _REPORT)}, True
    )


_NO_LAYER = "Teach the adapter without that layer, then register it."
_REPORT = "It is tried again; if it stays, report it with the line named and the worker's log."


def _by_kind(error: BaseException) -> Failure | None:
    """Kinds that no further try can mend until a person did something, but for missing retain data."""
    found: dict[str, Any] | None = None
    match error:
        case NonFiniteScore():
            found = _words(
                "broken-adapter", "The served adapter gives no finite numbers", str(error), "Restore or replace it."
            )
        case FloatingPointError():
            found = _words("not-finite", "The numbers are not finite", str(error), "Check the base and the adapter.")
        case AdapterDidNotMove():
            found = _words("did-not-move", "Training changed nothing", str(error), "Raise steps or learning rate.")
        case MemoryExhausted() | MemoryError():
            found = _words("out-of-memory", "The device has too little memory", str(error), _SMALLER)
        case TooLong():
            found = _words("text-too-long", "A text does not fit the context", str(error), "Withdraw and split it.")
        case NoRetainData():
            return Failure(_words("no-retain-data", "There is no retain data", str(error), "Add retain items."), True)
        case SafetensorError():
            found = _words(
                "broken-weights", "A weights file is damaged", "a safetensors file is cut off or malformed",
                "Restore the base model or the adapter version from a backup.",
            )  # fmt: skip
        case OSError() if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            found = _words(
                "storage-full", "There is no room left on the disk", "what the job made could not be written", _FREE
            )
        case OSError():
            found = _words(
                "files-missing", "A file of the model can not be read",
                f"{type(error).__name__} ({errno.errorcode.get(error.errno or 0, 'missing or malformed')})",
                "Check that base model and adapter lie where they were registered and may be read by the worker.",
            )  # fmt: skip
    return None if found is None else Failure(found, False)


_SMALLER = "Use a device with more memory, shorter items, or a smaller batch in the policy."
_FREE = "Free space under the data directory, then order the batch again with `include_attention`."


def _words(kind: str, title: str, detail: str, mend: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "detail": detail or title, "mend": mend}
