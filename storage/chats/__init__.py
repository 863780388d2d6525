"""Chats, their messages, and what people think of them: votes, signals, statistics.

Imports storage.db, storage.people and storage.registry. Begin with `votes.py`.
"""
