"""Background threads of a server: housekeeping, the webhook, changed settings, the monitor of versions.

Imports storage and app.serving. Begin with `housekeeping.py`.
"""
