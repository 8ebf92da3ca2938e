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
from grail.checks import AdapterDetached, AdapterDidNotMove, MaskBroken, NonFinite
from grail.config import NothingNamed
from grail.data.tokenise import TooLong
from grail.localise.gradients import NotPerExample
from grail.localise.regions import NoRetainData
from grail.methods.memflex import NothingLocated
from grail.metrics.likelihood import NonFiniteScore
from grail.model.quantised import QuantisationMissing
from worker.device import MemoryExhausted, WrongPlacement


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


_FAULT = "Nothing was published. Report it with the policy's settings."
_STRATEGY = "Name the requests' domains in the policy's strategy, or set it to combined; then order the batch again."
_NO_LAYER = "Teach the adapter without that layer, then register it."
_REPORT = "It is tried again; if it stays, report it with the line named and the worker's log."


_SMALLER = "Use a device with more memory, shorter items, or a smaller batch in the policy."
_FREE = "Free space under the data directory, then order the batch again with `include_attention`."
_FILES = "Check that base model and adapter lie where they were registered and may be read by the worker."
_EXTRA = "Install the extra on the worker's machine or unset GRAIL_QUANTISATION there, then order the batch again."
_PLACEMENT = "Correct the worker's environment and start it again, then order the batch again."
_BACKUP = "Restore the base model or the adapter version from a backup."

_KINDS: tuple[tuple[tuple[type[BaseException], ...], str, str, str], ...] = (
    ((NonFiniteScore,), "broken-adapter", "The served adapter gives no finite numbers", "Restore or replace it."),
    ((FloatingPointError,), "not-finite", "The numbers are not finite", "Check the base and the adapter."),
    ((AdapterDidNotMove,), "did-not-move", "Training changed nothing", "Raise steps or learning rate."),
    ((AdapterDetached,), "adapter-detached", "The adapter gets no gradient", _NO_LAYER),
    ((MaskBroken,), "mask-broken", "A protected entry changed", _FAULT),
    ((NothingLocated,), "nothing-located", "The method found nothing to train", "Change its options."),
    ((MemoryExhausted, MemoryError), "out-of-memory", "The device has too little memory", _SMALLER),
    ((QuantisationMissing,), "quantisation-missing", "The worker lacks bitsandbytes", _EXTRA),
    ((WrongPlacement,), "wrong-placement", "The worker's settings are wrong", _PLACEMENT),
    ((TooLong,), "text-too-long", "A text does not fit the context", "Withdraw and split it."),
    ((NothingNamed,), "nothing-named", "The strategy names no domain of the batch", _STRATEGY),
    ((NoRetainData,), "no-retain-data", "There is no retain data", "Add retain items."),
)
"""Exceptions whose own words may be shown, the first that fits: (classes, type, title, how to mend)."""


def _by_kind(error: BaseException) -> Failure | None:
    """Kinds that no further try can mend until a person did something, but for missing retain data."""
    for classes, kind, title, mend in _KINDS:
        if isinstance(error, classes):
            return Failure(_words(kind, title, str(error), mend), isinstance(error, NoRetainData))
    if isinstance(error, SafetensorError):
        cut = "a safetensors file is cut off or malformed"
        return Failure(_words("broken-weights", "A weights file is damaged", cut, _BACKUP), False)
    if not isinstance(error, OSError):
        return None
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        full = "what the job made could not be written"
        return Failure(_words("storage-full", "There is no room left on the disk", full, _FREE), False)
    what = f"{type(error).__name__} ({errno.errorcode.get(error.errno or 0, 'missing or malformed')})"
    return Failure(_words("files-missing", "A file of the model can not be read", what, _FILES), False)


def _words(kind: str, title: str, detail: str, mend: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "detail": detail or title, "mend": mend}
