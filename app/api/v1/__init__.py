"""Our own API under /api/v1: one module per kind of resource.

Imports app.api, app.chat, app.services, app.web, trainer and storage. Begin with `votes.py` or
`chats.py`. List a new module in app/server.py.
"""
