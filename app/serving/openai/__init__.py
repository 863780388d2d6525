"""The external backend: another server generates, which speaks OpenAI's protocol.

Imports app.serving. Begin with `backend.py`.
"""
