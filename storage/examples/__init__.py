"""Turns the votes of a snapshot into KTO examples: SQL, filters, duplicates, pairs, weights.

May import storage.errors, .settings, .files, .db, .people, .registry and .chats. Begin with `example.py`.
"""
