"""What applies to every request: authentication, middleware, errors, sign-in and the guard of the pages.

Imports app.telemetry and storage. Begin with `auth.py`.
"""
