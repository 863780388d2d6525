"""The web pages: the chat at `/` and the administration at `/admin/`.

Imports app.services, app.chat, app.api, app.serving, app.web, trainer and storage; runs no SQL and no model.
Begin with `chat/page.py`.
"""
