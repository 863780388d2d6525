"""What operators need: health checks, metrics, settings and the API's documentation.

Imports app.web and storage. Begin with `monitoring.py`.
"""
