"""/api/v1: a module for each kind of resource.

Begin with `votes.py` or `chats.py`. A new module is listed in app/server.py.
"""
