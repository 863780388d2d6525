"""People: accounts, API tokens and sessions, and the end users of an application.

Imports storage.db. Begin with `users.py`.
"""
