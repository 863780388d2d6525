"""What applies to every request: authentication, middleware, errors, languages, sign-in, the pages' guard.

Imports app.rate_limit, app.telemetry and storage. Begin with `auth.py`.
"""
