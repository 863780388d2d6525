"""What an admin sees of single votes and says about them: the list with its search, and second ratings.

Excluding votes is part of storage/privacy. Imports db, chats, examples and registry. Begin with
`voted_replies.py`.
"""
