"""The HTTP API: our own under /api/v1, OpenAI's under /v1, and what operators need.

Imports app.services, app.chat, app.serving, app.web, trainer and storage. Begin with `v1/votes.py`;
`schemas.py` has the JSON shapes.
"""
