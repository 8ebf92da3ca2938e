"""What can be wrong with sealed content and its keys. No message holds content, a key or a part of either."""

from __future__ import annotations

from app.errors import ServiceError, Unavailable


class NotAtHand(LookupError):
    """A key would have to be asked for, by whom who must not wait for it."""


class ContentUnreadable(ServiceError):
    """Sealed bytes do not open."""

    status, type, title = 500, "content-unreadable", "Sealed content can not be opened"
    mend = (
        "The row was changed, moved or sealed with another key: restore it, or the key store that belongs to this "
        "database."
    )


class Malformed(ContentUnreadable):
    """The bytes are no sealed content at all."""


class WrongKeyOrPlace(ContentUnreadable):
    """Sealed with another key, for another row or field, or changed since."""


class DataKeyMissing(ServiceError):
    """The key store has never heard of this key."""

    status, type, title = 500, "data-key-missing", "The key of this content is not in the key store"
    mend = "Restore a backup of the key store that is not older than the database's; see docs/operations.md."


class ContentDestroyed(ServiceError):
    """The key was destroyed, for good."""

    status, type, title = 410, "content-destroyed", "This content was destroyed after its erasure was published"
    mend = "Nothing brings it back; the request's states, dates and report are still there."


class NoKeyEncryptionKey(ServiceError):
    """The service can not seal or open anything without one."""

    status, type, title = 500, "no-key-encryption-key", "A key-encryption key is missing, or is not fit for use"
    mend = (
        "Make one with `echo 1:$(openssl rand -base64 32)`, keep it in a file of mode 0400 and set "
        "GRAIL_KEY_ENCRYPTION_KEYS_FILE to its path; the same for API and workers."
    )


class KeyStoreAway(Unavailable):
    """Keys are elsewhere than rows, and elsewhere is away."""

    type, title = "key-store-away", "The key store does not answer"


class KeyStoreDamaged(ServiceError):
    """The file is no database, or no longer a whole one."""

    status, type, title = 500, "key-store-damaged", "The file of the key store is damaged, or is something else"
    mend = "Stop the service and restore the newest backup of it; see docs/operations.md, The keys of content."


class TombstonesDamaged(ServiceError):
    """The list of destroyed keys can not be relied upon, so no key of this store may be used."""

    status, type, title = 500, "tombstones-damaged", "The list of destroyed keys is damaged, or is another store's"
    mend = "Restore the newest copy of the list; without any, see docs/operations.md, The keys of content."
