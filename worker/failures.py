"""What an exception means for a job: words for people, and the kind of failure that decides what follows.

Messages are our own or of kinds that are known to hold no request text; of any other exception only the kind and the
line are told.
"""

from __future__ import annotations

import errno
import re
import uuid
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from sqlalchemy.exc import InterfaceError, OperationalError

from app.errors import ServiceError, line_of
from app.jobs.failures import Failure, FailureKind
from app.jobs.verdicts import LOWEST_RATE, next_seed
from grail.checks import AdapterDetached, AdapterDidNotMove, MaskBroken, NonFinite
from grail.config import NothingNamed
from grail.data.tokenise import TooLong
from grail.localise.gradients import NotPerExample
from grail.localise.regions import NoRetainData
from grail.methods.memflex import NothingLocated
from grail.metrics.likelihood import NonFiniteScore
from grail.model.quantised import QuantisationMissing
from worker.device import MemoryExhausted, WrongPlacement, out_of_memory


def failure_of(
    error: BaseException, settings: Mapping[str, Any], owners: Mapping[str, uuid.UUID] | None = None
) -> Failure:
    """The failure that an exception amounts to. `settings` are those of the run (UnlearnConfig fields), `owners` the
    request of each example that is a request's."""
    if isinstance(error, NonFinite):
        slower = {
            "learning_rate": max(float(settings["learning_rate"]) / 2, LOWEST_RATE),
            "seed": next_seed(settings),
        }
        words = _words("not-finite", "Training left the numbers", str(error), "It is tried again at half the rate.")
        return Failure(_Kind.SETTINGS, words, slower)
    if isinstance(error, TooLong):
        return _too_long(error, owners or {})
    if isinstance(error, ServiceError):
        return Failure(_of_service(error), _words(error.type, error.title, error.detail, error.how_to_mend))
    return _by_kind(error) or Failure(
        _Kind.UNKNOWN,
        _words("unexpected", "An unexpected error", f"{type(error).__name__} at {line_of(error)}", _REPORT),
    )


_Kind = FailureKind

_FAULT = "Nothing was published. Report it with the policy's settings."
_STRATEGY = "Name the requests' domains in the policy's strategy, or set it to combined; then order the batch again."
_NO_LAYER = "Teach the adapter without that layer, then register it."
_REPORT = (
    "Its batch is halved until the request at fault stands alone; if it stays, report it with the line named and the "
    "worker's log."
)
_SMALLER = "Start a worker with more memory; or shorter items, or a smaller batch in the policy."
_FREE = "Free space under the data directory, then close the model's breaker."
_FILES = "Check that base model and adapter lie where they were registered and may be read; then close the breaker."
_EXTRA = "Install the extra on the worker's machine or unset GRAIL_QUANTISATION there, then close the model's breaker."
_PLACEMENT = "Correct the worker's environment and start it again, then close the model's breaker."
_BACKUP = "Restore the base model or the adapter version from a backup, then close the model's breaker."
_SHORTEN = "Withdraw the request and split the item."
_RETAIN_SHORTEN = (
    "Put the standing retain set anew without that text, or set the prompt template back; then close the breaker."
)
_AWAY = "Nothing: it is tried again by itself, after pauses that grow."

_KINDS: tuple[tuple[tuple[type[BaseException], ...], FailureKind, str, str, str], ...] = (
    ((NonFiniteScore,), _Kind.UNKNOWN, "broken-adapter", "The adapter gives no finite numbers",
     "Its batch is halved until the request at fault stands alone; if all fail, restore or replace the adapter."),
    ((FloatingPointError,), _Kind.UNKNOWN, "not-finite", "The numbers are not finite",
     "Its batch is halved until the request at fault stands alone; if all fail, check the base and the adapter."),
    ((AdapterDidNotMove,), _Kind.SETTINGS, "did-not-move", "Training changed nothing", "Raise steps or learning rate."),
    ((AdapterDetached,), _Kind.SETTINGS, "adapter-detached", "The adapter gets no gradient", _NO_LAYER),
    ((NotPerExample,), _Kind.SETTINGS, "adapter-not-localisable", "A layer can not be localised", _NO_LAYER),
    ((MaskBroken,), _Kind.SETTINGS, "mask-broken", "A protected entry changed", _FAULT),
    ((NothingLocated,), _Kind.SETTINGS, "nothing-located", "The method found nothing to train", "Change its options."),
    ((NothingNamed,), _Kind.SETTINGS, "nothing-named", "The strategy names no domain of the batch", _STRATEGY),
    ((QuantisationMissing,), _Kind.OPERATOR, "quantisation-missing", "The worker lacks bitsandbytes", _EXTRA),
    ((WrongPlacement,), _Kind.OPERATOR, "wrong-placement", "The worker's settings are wrong", _PLACEMENT),
)  # fmt: skip
"""Exceptions whose own words may be shown, the first that fits: (classes, kind, type, title, how to mend)."""

AWAY = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED,
        errno.EPIPE, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN,
        errno.EREMOTEIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.EMFILE, errno.ENFILE,
    }
)  # fmt: skip
"""What the system says of a files' server or a connection that is away, or of a table of its own that is full."""


def _of_service(error: ServiceError) -> FailureKind:
    """Of the service's own errors a worker meets those of what is away, and those of files and disk."""
    if error.status == 503:
        return _Kind.TRANSIENT
    return _Kind.UNKNOWN if error.type == ServiceError.type else _Kind.OPERATOR


def _too_long(error: TooLong, owners: Mapping[str, uuid.UUID]) -> Failure:
    """The request of the text is at fault; a text of the standing set is for whoever put it there."""
    owner = owners.get(error.example_id)
    kind, mend = (_Kind.OPERATOR, _RETAIN_SHORTEN) if owner is None else (_Kind.DATA, _SHORTEN)
    words = _words("text-too-long", "A text does not fit the context", str(error), mend)
    return Failure(kind, words, requests=frozenset() if owner is None else frozenset({owner}))


def _by_kind(error: BaseException) -> Failure | None:
    """What is known by the class of the exception."""
    if isinstance(error, NoRetainData):  # rows may have gone since they were drawn: the next try draws anew
        words = _words("no-retain-data", "There is no retain data", str(error), "Add retain items.")
        return Failure(_Kind.SETTINGS, words, {})
    if out_of_memory(error):
        words = _words("out-of-memory", "The device has too little memory", _told(error), _SMALLER)
        return Failure(_Kind.MEMORY, words)
    for classes, kind, slug, title, mend in _KINDS:
        if isinstance(error, classes):
            return Failure(kind, _words(slug, title, str(error), mend))
    if isinstance(error, SafetensorError):
        return _of_weights(error)
    if isinstance(error, OperationalError | InterfaceError):  # a deadlock, a lock timeout, a cut connection
        words = _words("unavailable", "The database does not answer", type(error).__name__, _AWAY)
        return Failure(_Kind.TRANSIENT, words)
    return _of_system(error) if isinstance(error, OSError) else None


def _told(error: BaseException) -> str:
    """Our own words; the allocator's name addresses and programs."""
    return str(error) if isinstance(error, MemoryExhausted) else ""


def _of_weights(error: SafetensorError) -> Failure:
    """A file that is damaged, or what the system said: the library keeps its number in its words alone."""
    if number := re.search(r"\(os error (\d+)\)", str(error)):
        return _of_system(OSError(int(number[1]), ""))
    cut = "a safetensors file is cut off or malformed"
    return Failure(_Kind.OPERATOR, _words("broken-weights", "A weights file is damaged", cut, _BACKUP))


def _of_system(error: OSError) -> Failure:
    """Full, away, or not there."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        full = "what the job made could not be written"
        return Failure(_Kind.OPERATOR, _words("storage-full", "There is no room left on the disk", full, _FREE))
    what = f"{type(error).__name__} ({errno.errorcode.get(error.errno or 0, 'missing or malformed')})"
    if error.errno in AWAY or isinstance(error, TimeoutError | ConnectionError):
        return Failure(_Kind.TRANSIENT, _words("files-away", "Files or a server do not answer", what, _AWAY))
    return Failure(_Kind.OPERATOR, _words("files-missing", "A file of the model can not be read", what, _FILES))


def _words(kind: str, title: str, detail: str, mend: str) -> dict[str, Any]:
    return {"type": kind, "title": title, "detail": detail or title, "mend": mend}
