"""The chat page.

Imports app.chat and storage.chats. Begin with `page.py`.
"""
