"""What a person can take back: erasure, retention, consent, quarantine.

Imports storage.chats, storage.registry and storage.exports. Begin with `erasure.py`.
"""
