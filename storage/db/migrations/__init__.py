"""Alembic migrations; an old database of every released version upgrades on both engines."""
