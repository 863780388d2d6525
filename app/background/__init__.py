"""Background threads of a server: housekeeping, the webhook, changed settings, the monitor of versions.

Imports app.retry_after, app.serving and storage. Begin with `housekeeping.py`.
"""
