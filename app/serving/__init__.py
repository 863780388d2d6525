"""Replies: from a list of messages to a stream of text by one model version.

Knows models and adapters; knows no chats, no users and no routes. Begin with `backend.py`.
"""
