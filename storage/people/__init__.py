"""People: accounts, API tokens and sessions, and the end users of an application.

May import storage.errors, .files and .db. Begin with `users.py`.
"""
