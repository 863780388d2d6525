"""What holds for every request: who is asking, headers, errors, and what guards the pages.

Imports storage.people and app.telemetry. Begin with `auth.py`.
"""
