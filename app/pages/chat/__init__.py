"""The chat page: a person's chats, streaming replies, and votes on them.

Imports app.chat, app.services, app.serving, app.web and storage. Begin with `page.py`.
"""
