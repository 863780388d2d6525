"""Removes data from the store or from training: erasure, retention, consent, quarantine, guard releases.

May import storage.errors, .db, .people, .registry, .chats and .exports. Begin with `erasure.py`.
"""
