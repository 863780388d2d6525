"""Generates replies: from a list of messages to a stream of text by one model version.

Imports app.retry_after, trainer and storage, but nothing about chats, people or routes.
Begin with `backend.py`.
"""
