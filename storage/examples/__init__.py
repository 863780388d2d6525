"""Votes as KTO examples, as of a snapshot: SQL, filters, duplicates, pairs.

Imports storage.chats. Begin with `example.py`.
"""
