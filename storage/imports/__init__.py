"""Imports rated data from files of many formats, as chats with votes.

May import storage.errors, .files, .db, .people, .chats and .exports. Begin with `importer.py`; a new format
goes into `formats.py`.
"""
