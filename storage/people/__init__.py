"""People: accounts, API tokens and sessions, identities at providers, and the end users of an application.

May import storage.errors, .settings, .files and .db. Begin with `users.py`.
"""
