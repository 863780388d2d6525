"""The import formats: how to detect a record of each, and how to convert it to rows.

May import storage.errors, .chats and storage.imports.rows and .files. Begin with `table.py`; a new format
is an entry there.
"""
