"""Alembic migrations; each upgrade and downgrade is tested."""
