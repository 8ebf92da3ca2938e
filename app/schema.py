"""The database's schema: bring it to the newest, take it back, ask where it stands. Alembic without its ini file."""

from __future__ import annotations

import time
from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

log = structlog.get_logger(__name__)

AGAIN = {"55P03", "40P01"}
"""SQL states of a lock that was not to be had in time, and of a circle of waits."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def configuration(url: str) -> Config:
    """Alembic's configuration for a database."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`. A migration that does not get its locks at once lets everybody else pass before
    it tries again: each has a transaction of its own, so what was done stays done. Raises OperationalError in the end.
    """
    for pause in (*PAUSES, None):
        try:
            command.upgrade(configuration(url), revision)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in AGAIN or pause is None:
                raise
            log.warning("migration_waits_for_a_lock", again_in_seconds=pause)
            time.sleep(pause)
        else:
            return


def downgrade(url: str, revision: str = "base") -> None:
    """Take the database back to `revision`."""
    command.downgrade(configuration(url), revision)


def head() -> str | None:
    """The newest revision that this code knows."""
    return ScriptDirectory.from_config(configuration("")).get_current_head()


def is_known(revision: str) -> bool:
    """Whether the migrations have a revision of that name (`head` and `base` count)."""
    try:
        ScriptDirectory.from_config(configuration("")).get_revision(revision)
    except CommandError:
        return False
    return True


def is_behind(at: str | None) -> bool:
    """Whether a database at that revision lacks something that this code needs. A revision that this code does not know
    is a newer one: migrations only expand, so that the code before goes on working (docs/operations.md)."""
    return at is None or (at != head() and is_known(at))


def current(url: str) -> str | None:
    """The revision that the database is at; None for an empty one."""
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
