"""What can go wrong with an embedded server. One base, so that a command catches one class and prints its message."""

from __future__ import annotations


class EmbeddedError(RuntimeError):
    """The message names what is wrong and the way out."""


class BinaryMissing(EmbeddedError):
    """A server's package is not installed, or holds nothing for this platform."""


class AlreadyRunning(EmbeddedError):
    """Another live supervisor holds this directory."""


class PlaceRefused(EmbeddedError):
    """A directory cannot be used: it belongs to somebody else, or the server's user cannot reach it."""


class ServerFailed(EmbeddedError):
    """A server did not come up; says where its log lies and how it ends."""
