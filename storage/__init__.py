"""What Thumbloop stores: settings, people, chats, votes, model versions and training runs.

Owns the database tables and most of the data directory. Imports neither trainer nor app, and no model
library or web framework. Begin with `db/tables.py`, then `chats/votes.py`.
"""
