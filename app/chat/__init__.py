"""From a message to a saved reply: the one path that the page and both APIs share.

Imports app.serving and storage.chats; knows no HTTP. Begin with `service.py`.
"""
