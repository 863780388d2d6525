"""Chats and their messages, and the feedback on them: votes, signals, statistics, the webhook's outbox.

May import storage.errors, .settings, .files, .db, .people and .registry. Begin with `votes.py`.
"""
