"""What Thumbloop remembers: settings, people, chats, votes, runs and model versions.

Knows SQL and the data directory; knows no model, no HTTP and neither neighbour package.
"""
