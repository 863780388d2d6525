"""The OpenAI-compatible API under /v1.

Imports app.api, app.chat, app.services, app.serving, app.web and storage. Begin with `routes.py`.
"""
