"""The HTTP API: our own under /api/v1, OpenAI's under /v1, health, and the documentation of all three."""
