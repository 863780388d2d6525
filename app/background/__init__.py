"""Background threads of a server: daily housekeeping, the webhook, and the monitor of versions.

Imports storage and app.serving. Begin with `housekeeping.py`.
"""
