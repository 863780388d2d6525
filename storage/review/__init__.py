"""What an admin sees of single votes: the list with its search, and second ratings.

Excluding votes is part of storage.privacy. May import storage.errors, .db, .registry, .chats and .examples.
Begin with `voted_replies.py`.
"""
