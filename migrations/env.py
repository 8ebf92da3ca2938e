"""Run migrations on the URL that app.schema hands in, or on GRAIL_DATABASE_URL when alembic is called by hand."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, text

from app.config import load_settings
from app.tables import Base

LOCK = 7_311_001
"""Advisory lock: of two starting processes one migrates, the other waits, however long."""
LOCK_TIMEOUT_SECONDS = 2
"""Whoever waits for a table's lock holds up all that come after: not longer than this. app.schema tries again."""


def run() -> None:
    url = context.config.attributes.get("url") or load_settings().database_url
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
            connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
            connection.commit()  # both last as long as the session; each migration has a transaction of its own
            context.configure(
                connection=connection, target_metadata=Base.metadata, compare_type=True, transaction_per_migration=True
            )
            with context.begin_transaction():
                context.run_migrations()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
            connection.commit()
    finally:  # with the connection goes the advisory lock
        engine.dispose()


run()
