"""What can be wrong with the log, or with what is asked of it."""

from __future__ import annotations

from app.errors import NotFound, ServiceError, Unprocessable


class NoCheckpointYet(NotFound):
    """Nothing was signed so far."""

    type, title = "no-checkpoint-yet", "The audit log has no signed checkpoint yet"
    mend = (
        "The first one is signed within a minute of the first change, where a control worker has the signing key: "
        "`grail doctor` says what is missing. Proofs for a `size` of your own can be asked for without one."
    )


class NotInLog(NotFound):
    """No leaf of that hash, or at that place, has a number."""

    type, title = "not-in-log", "The audit log has no such leaf"
    mend = "A change is numbered within seconds of its commit: ask again, or check hash and position."


class OutsideLog(Unprocessable):
    """A size or place beyond what the log holds."""

    type, title = "outside-log", "The audit log is not that large"
    mend = "Ask for a size of at most `size` of this answer, and for a position below it."


class NoSigningKey(ServiceError):
    """Nothing can be signed; requests are taken, and their leaves numbered, all the same."""

    status, type, title = 500, "no-signing-key", "The audit log has no key that it can be signed with"
    mend = (
        "Make one with `grail log key new FILE`, and set GRAIL_SIGNING_KEY_FILE to it and GRAIL_LOG_ORIGIN to the "
        "log's name, for the control worker. Nothing is lost meanwhile: what was not signed is signed then."
    )


class OtherOrigin(ServiceError):
    """The log was signed under another name."""

    status, type, title = 500, "other-log-origin", "The audit log has another name than GRAIL_LOG_ORIGIN says"
    mend = "Set GRAIL_LOG_ORIGIN back to the name in the last checkpoint: a log keeps its name for ever."


class LogForked(ServiceError):
    """What the log holds now does not continue what was signed. Nothing more is signed."""

    status, type, title = 500, "log-forked", "The audit log does not continue its last checkpoint"
    mend = (
        "Rows were changed behind the service's back, or a part of an older backup was restored. Keep both states, "
        "run `grail log verify`, see docs/operations.md."
    )
