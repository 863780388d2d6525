"""The admin page.

Imports app.api, from which it takes what its panels show. Begin with `page.py`.
"""
