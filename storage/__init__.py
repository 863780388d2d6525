"""What Thumbloop remembers: settings, people, chats, votes, model versions and runs.

The only package that knows the tables and most of the data directory. Imports no model library, no web
framework and neither of its neighbours. Begin with `db/tables.py`, then `chats/votes.py`.
"""
