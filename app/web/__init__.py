"""What applies to every request: authentication, middleware, errors, sign-in and the guard of the pages.

Imports app.rate_limit, app.telemetry and storage. Begin with `auth.py`.
"""
