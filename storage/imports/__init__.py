"""Imports rated data from files of many formats, as chats with votes.

May import storage.errors, .batches, .files, .db, .people and .chats. Begin with `importer.py`; a new format
goes into `formats/table.py`.
"""
