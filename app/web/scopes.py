"""What an API token with scopes may do: which routes each scope opens.

A token without scopes may do what the role of its account may. Scopes only take away: a route for admins
needs the role `admin`, too. A route that no scope names, such as that for accounts, needs one without scopes.
"""

import re
from collections.abc import Sequence

ANY = "[A-Z]+"
OWN = ("GET", "/api/v1/(me|vote-tags)")
# By scope: methods and paths, as regular expressions of all of it.
ROUTES = {
    "read": (("GET", ".*"),),
    "vote": (
        OWN,
        (ANY, "/api/v1/(messages|chats)/[^/]+/vote"),
        ("POST", "/api/v1/messages/[^/]+/signals"),
    ),
    "chat": (
        OWN,
        (ANY, "/v1/.*"),
        (ANY, "/api/v1/(chats|messages)(/.*)?"),
        ("POST", "/api/v1/end-users/erase"),
    ),
    "train": (
        ("GET", "/api/v1/me"),
        (ANY, "/api/v1/(training-runs|model-versions|deployments|sweeps|canary|rollback)(/.*)?"),
    ),
}


def is_open(scopes: Sequence[str], method: str, path: str) -> bool:
    """Whether a token with these scopes may call the route; without any it may."""
    return not scopes or any(
        re.fullmatch(methods, method) and re.fullmatch(paths, path)
        for scope in scopes
        for methods, paths in ROUTES[scope]
    )
