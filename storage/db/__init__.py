"""The database: one engine, short transactions, tables, migrations, group commit.

May import storage.errors, .settings and .files. Begin with `tables.py`, then `database.py`.
"""
