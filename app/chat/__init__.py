"""From a message to a saved reply: the one path that the page and both APIs share.

Imports app.rate_limit, app.serving, app.telemetry and storage; knows no HTTP. Begin with `service.py`.
"""
