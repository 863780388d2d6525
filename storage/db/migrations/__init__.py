"""Alembic migrations: a database of any released version upgrades, on both engines."""
