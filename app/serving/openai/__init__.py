"""The external backend: another server, which speaks OpenAI's protocol, generates the replies.

Imports app.serving, app.retry_after, trainer.model and storage. Begin with `backend.py`.
"""
