"""The database: one engine, short transactions, tables, migrations, group commit.

Imports storage.settings and storage.files. Begin with `tables.py`, then `database.py`.
"""
