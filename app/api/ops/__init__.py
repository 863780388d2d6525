"""What operators need: health checks, metrics, settings, the audit log and the API's documentation.

Imports app.services, app.web and storage. Begin with `monitoring.py`.
"""
