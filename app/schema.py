"""The database's schema: bring it to the newest, take it back, ask where it stands. Alembic without its ini file."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"


def configuration(url: str) -> Config:
    """Alembic's configuration for a database."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`."""
    command.upgrade(configuration(url), revision)


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
