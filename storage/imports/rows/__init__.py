"""What all import formats share: rows, the reading of conversations and of single values, and the options.

May import storage.errors, .chats, .db and .imports.files. Begin with `row.py`, then `turns.py`.
"""
