"""Own versions, asked through a server: the running one of these settings, or one that is started for it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from app.simulation.server import started_server
from storage.db.database import open_database
from storage.people.tokens import create_token, revoke_token
from storage.people.users import ensure_user
from storage.registry.model_versions import check_may_be_served, ensure_base, get_version
from storage.settings import Settings, load_settings
from trainer.judge.servers import Server
from trainer.judge.specs import ServerSpec, is_own, name_of, parse_server, with_options

ACCOUNT = "judge"
TOKEN_LIVES = timedelta(days=7)  # if it is not revoked, because of a kill
ASKED_WITHIN = 600.0  # a reply waits for the others in the queue; on a slow machine that takes minutes
OWN_SECONDS = 12.0  # about what a reply takes with eight under way: the default model on two cores
# A server that is started for this does nothing else.
QUIET = {"schedule": "", "auth": "anonymous", "max_replies_per_minute": 0, "webhook_url": ""}


@asynccontextmanager
async def opened_servers(
    given: Sequence[str], settings: Settings, log: Path, sampling: dict[str, Any], option: str = "model"
) -> AsyncIterator[list[Server]]:
    """The servers of `NAME=URL,…` and of own versions such as `v2` or `v2,temperature=0.7`, in their order.

    `sampling` holds for own versions without numbers of their own. Raises InvalidInput, NotFound for a
    version that does not exist, Conflict for one that was rejected, and NotReady if the server for own
    versions does not start, whose log is `log`.
    """
    own = check_names(given, settings, option)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(_own_address(settings, log)) if own else ("", "")
        specs = [read_spec(text, option, address, **sampling) for text in given]
        yield [await stack.enter_async_context(Server(spec)) for spec in specs]


def read_spec(
    text: str, option: str = "model", address: tuple[str, str] = ("", ""), **sampling: Any
) -> ServerSpec:
    """Of `NAME=URL,…`, or of an own version such as `v2,temperature=0.7`; raises InvalidInput.

    `address` is that of the server for own versions, and its key; `sampling` holds for them alone.
    """
    if not is_own(text):
        return parse_server(text, option)
    version, *options = text.split(",")
    usual = {"timeout": ASKED_WITHIN, "seconds": OWN_SECONDS, **sampling}
    return with_options(ServerSpec(version, *address, version, own=True, **usual), options, option)


def check_names(given: Sequence[str], settings: Settings, option: str = "model") -> list[str]:
    """Raise as `opened_servers` does, without asking anybody; returns those that are own versions."""
    for text in given:
        read_spec(text, option)
    names = [name_of(text) for text in given if is_own(text)]
    if names:
        with closing(open_database(settings)) as database, database.write() as session:
            ensure_base(session, settings.model)  # as the server's start would
            for name in names:
                check_may_be_served(get_version(session, name))
    return names


@asynccontextmanager
async def _own_address(settings: Settings, log: Path) -> AsyncIterator[tuple[str, str]]:
    """The address and a token of a server with these versions; the token ends with the context."""
    with closing(open_database(settings)) as database:
        with database.write() as session:
            user = ensure_user(session, ACCOUNT, "admin")
            row, token = create_token(session, user.id, name=ACCOUNT, ttl=TOKEN_LIVES)
            token_id = row.id
        try:
            url = f"http://{settings.host}:{settings.port}"
            if await _is_ours(url, token):
                yield f"{url}/v1", token
                return
            quiet = load_settings(**settings.model_dump(exclude_unset=True) | QUIET)
            async with started_server(quiet, log) as server:
                yield str(server.openai.base_url), str(server.openai.api_key)
        finally:
            with database.write() as session:
                revoke_token(session, token_id)


async def _is_ours(url: str, token: str) -> bool:
    """Whether a server there knows the token, and so has this database."""
    try:
        async with httpx.AsyncClient(timeout=5.0) as http:
            found = await http.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError:
        return False
    return found.is_success
