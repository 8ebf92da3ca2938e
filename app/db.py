"""The engine, and the two ways to a session: the API's dependency and the workers' context manager.

Both commit BEFORE anything else is told, then send the messages that were noted (app.queue). FastAPI runs code after
`yield` once the answer is out, unless the dependency has function scope: `DbSession` has it.
"""

from __future__ import annotations

import select as polls
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from app import queue
from app.envelope.codec import Codec
from app.envelope.columns import attach
from app.envelope.errors import NotAtHand
from app.envelope.service import process_codec
from app.errors import Unavailable

ASK_AFTER_IDLE_SECONDS = 30.0
IN_DOUBT = (
    "It went away while it stored the change: look whether the change is there before you send it again. A call with "
    "an Idempotency-Key can be sent again as it was."
)


class Database:
    """An engine and its sessions. Parameters are hidden from errors: they hold what shall be forgotten.

    A process that stands still in the middle of a transaction holds its rows for `idle_seconds` and no longer, if there
    are any: the server then ends its session, and whoever takes its work over does not wait until it wakes.
    """

    def __init__(
        self, url: str, *, pool_size: int = 10, timeout_seconds: int = 10, application: str = "grail",
        idle_seconds: float | None = None, codec: Callable[[], Codec] = process_codec,
    ) -> None:  # fmt: skip
        idle = "" if idle_seconds is None else f"-c idle_in_transaction_session_timeout={round(idle_seconds * 1000)}"
        self.engine: Engine = create_engine(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_timeout=timeout_seconds,
            hide_parameters=True,
            connect_args={
                "connect_timeout": timeout_seconds,
                "application_name": application,
                "options": idle,
            },
        )
        self.session_factory = sessionmaker(self.engine, expire_on_commit=False)
        self._open_codec = codec
        self._codec: Codec | None = None
        self._codec_at_hand: Codec | None = None
        attach(self.session_factory, self.codec)
        self.reader = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self.engine, "checkout", _only_alive)
        event.listen(self.engine, "checkin", _note_time)

    def codec(self) -> Codec:
        """What seals and opens content; its keys are looked for when it is first needed. Raises what `open_keyring`
        does."""
        if self._codec is None:
            self._codec = self._open_codec()
        return self._codec

    def codec_at_hand(self) -> Codec:
        """The same for whom nobody may wait. Raises NotAtHand, at once or where a key is needed that is not there."""
        if self._codec is None:
            raise NotAtHand
        if self._codec_at_hand is None:
            self._codec_at_hand = Codec(self._codec.keyring.at_hand())
        return self._codec_at_hand

    def ping(self) -> None:
        """Raises Unavailable when the database does not answer."""
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        except (OperationalError, InterfaceError, PoolTimeout):
            raise Unavailable("the database does not answer") from None

    def dispose(self) -> None:
        """Close every connection."""
        self.engine.dispose()


@contextmanager
def reading(db: Database) -> Iterator[Connection]:
    """A connection for single statements that only read, each by itself: no round trips for a transaction's ends.
    Raises Unavailable."""
    with _unavailable_when_away(), db.reader.connect() as connection:
        yield connection


@contextmanager
def at_once(db: Database, *, changes: bool) -> Iterator[psycopg.Connection[Any]]:
    """A connection of the pool for single statements, each a transaction by itself, without SQLAlchemy's layers: for
    calls that have one statement, where those would take as long as the statement. Raises Unavailable; where something
    `changes`, the change may then be there."""
    with _unavailable_when_away(mend=IN_DOUBT if changes else None):
        held = db.engine.raw_connection()
        connection: psycopg.Connection[Any] = held.driver_connection  # type: ignore[assignment]  # psycopg is the driver
        try:
            connection.autocommit = True
            yield connection
        finally:
            if connection.closed or connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                held.invalidate()  # its server is gone, or it waits for an answer yet
            else:
                connection.autocommit = False
            held.close()


def _note_time(_: Any, record: Any) -> None:
    record.info["idle_since"] = time.monotonic()


def _only_alive(connection: Any, record: Any, _: Any) -> None:
    """Whoever takes a connection out of the pool gets one whose server is there.

    A server that ends, or ends one of its connections, says so on the socket: looking there costs no round trip, unlike
    asking. One that was idle for long is asked, since a network forgets connections without a word. Raises
    DisconnectionError: the pool then opens another.
    """
    idle_since = record.info.pop("idle_since", None)
    if idle_since is None:
        return
    watch = polls.poll()
    watch.register(connection.fileno(), polls.POLLIN)
    if not watch.poll(0) and time.monotonic() - idle_since < ASK_AFTER_IDLE_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except (psycopg.OperationalError, psycopg.InterfaceError):
        raise DisconnectionError from None


@contextmanager
def transaction(db: Database) -> Iterator[Session]:
    """One transaction: committed at the end, rolled back (by closing) on any error; noted messages are sent after the
    commit.

    Raises Unavailable when the server goes away, or has no connection left; the work is then to be done again.
    """
    with db.session_factory() as session:
        with _unavailable_when_away():
            yield session
        with _unavailable_when_away(mend=IN_DOUBT):
            session.commit()
        queue.send_noted(session)


def let_go(session: Session) -> None:
    """Give the connection back before a wait for others, such as a name to be looked up: nothing was changed so far,
    and the next statement begins anew. Else a few slow names would take all connections."""
    assert not session.new and not session.dirty and not session.deleted  # noqa: S101 - a rule for callers
    session.rollback()


def clock(session: Session) -> datetime:
    """The time of the database, for leases and all that workers decide: their own clocks may disagree, or jump."""
    found: datetime = session.execute(text("SELECT clock_timestamp()")).scalar_one()
    return found.astimezone(UTC)


@contextmanager
def _unavailable_when_away(mend: str | None = None) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, psycopg.OperationalError, psycopg.InterfaceError) as error:
        if _is_retryable(error):
            raise
        raise Unavailable("the database does not answer", mend=mend) from None
    except InternalError as error:
        if not isinstance(error.orig, psycopg.errors.IdleInTransactionSessionTimeout):
            raise
        raise Unavailable("the database ended a transaction that stood still", mend=mend) from None


def _is_retryable(error: Exception) -> bool:
    """Serialisation failures and lock timeouts are the caller's business, not an absence of the server."""
    if isinstance(error, OperationalError):
        return not error.connection_invalidated and _is_retryable(error.orig or Exception())
    return getattr(error, "sqlstate", None) in {"40001", "40P01", "55P03", "57014"}


def session(request: Request) -> Iterator[Session]:
    """The API's session: one transaction a request, committed before the answer."""
    with transaction(request.app.state.db) as opened:
        yield opened


DbSession = Annotated[Session, Depends(session, scope="function")]
