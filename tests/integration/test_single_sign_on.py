"""Signing in at an OpenID Connect provider that runs as a process of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from sqlmodel import select

from storage.db import audit
from storage.db.database import open_database
from storage.db.tables import Identity
from storage.people import users
from storage.privacy.erasure import erase_user
from storage.settings import Settings, in_environment
from tests.support import REPOSITORY
from tests.support.live_server import PLAIN, LiveServer, answers, die_with_parent, wait_until
from tests.support.oidc_provider import CLIENT, SECRET
from tests.support.programs import free_port

ADA = {"email": "ada@example.com", "email_verified": True}
GROUPS = {"admins": ["operators"], "users": ["staff"]}
Plan = Callable[..., None]


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.support.oidc_provider", str(port)]
    process = subprocess.Popen(command, cwd=REPOSITORY, preexec_fn=die_with_parent)
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{address}/keys"))
    yield address
    process.terminate()
    process.wait()


@pytest.fixture
def plan(provider: str) -> Plan:
    """Say what the provider does next: plan(claims={...}, signed="not")."""

    def plan(**wanted: Any) -> None:
        httpx.post(f"{provider}/plan", json=wanted, **PLAIN).raise_for_status()

    plan(claims=ADA)
    return plan


@pytest.fixture(scope="module")
def server(provider: str, tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Iterator[LiveServer]:
    mine = {"issuer": provider, "client_id": CLIENT, "client_secret": SECRET}
    with LiveServer(
        {
            "data_dir": tmp_path_factory.mktemp("oidc") / "data",
            "model": tiny_model,
            "auth": "accounts",
            "oidc": {
                "mine": {**mine, "label": "Our Office"},
                "grouped": {**mine, **GROUPS},
                "gone": {**mine, "issuer": "http://127.0.0.1:9"},
            },
        }
    ) as server:
        yield server


@pytest.fixture
def visitor(server: LiveServer) -> Iterator[httpx.Client]:
    with server.visit(follow_redirects=True) as client:
        yield client


def sign_in(client: httpx.Client, name: str = "mine") -> dict[str, Any]:
    """Go there and back; who the API says one is."""
    client.cookies.clear()
    arrived = client.get(f"/login/with/{name}?next=/sessions")
    assert (arrived.status_code, arrived.url.path) == (200, "/sessions"), arrived.text
    me: dict[str, Any] = client.get("/api/v1/me").json()
    return me


def refusal(client: httpx.Client, name: str = "mine") -> str:
    """The alert on the form that one comes back to, signed in nowhere."""
    client.cookies.clear()
    arrived = client.get(f"/login/with/{name}?next=/sessions")
    assert (arrived.status_code, arrived.url.path) == (403, "/login")
    assert client.get("/api/v1/me").status_code == 401
    return str(arrived.text.partition('role="alert">')[2].partition("<")[0])


def test_a_person_signs_in_and_is_known_again(server: LiveServer, visitor: httpx.Client, plan: Plan) -> None:
    form = visitor.get("/sessions")
    assert 'href="login/with/mine?next=/sessions">Sign in with Our Office' in form.text
    ada = sign_in(visitor)
    assert (ada["name"], ada["role"]) == ("ada@example.com", "user")
    plan(
        claims={"email": "lovelace@example.com", "email_verified": True}
    )  # the subject counts, not the address
    assert sign_in(visitor) == ada
    plan(claims={"sub": "5", "email": "new@example.com", "email_verified": True})
    assert sign_in(visitor)["name"] == "new@example.com"
    plan(claims={"sub": "6"}, userinfo={"sub": "6", "email": "six@example.com", "email_verified": True})
    assert sign_in(visitor)["name"] == "six@example.com"

    left = visitor.post("/logout")
    assert left.url.path == "/login"
    assert 'href="login/with/mine/leave">Sign out of Our Office, too' in left.text
    assert visitor.get("/api/v1/me").status_code == 401
    there = httpx.URL(visitor.get("/login/with/mine/leave", follow_redirects=False).headers["location"])
    asked = dict(there.params)
    assert (there.path, asked["client_id"]) == ("/end_session", CLIENT)
    assert asked["post_logout_redirect_uri"] == f"{server.url}/login"


def test_an_account_is_linked_by_a_verified_address_alone(
    server: LiveServer, visitor: httpx.Client, plan: Plan
) -> None:
    with closing(open_database(server.settings)) as database, database.write() as session:
        boss = users.create_user(session, "boss@example.com", role="admin", password="correct horse")
        boss_id = boss.id
    for claims in ({}, {"email_verified": False}, {"email_verified": "true"}):
        plan(claims={"sub": "unverified", "email": "boss@example.com", **claims})
        me = sign_in(visitor)
        assert (me["name"], me["role"]) == ("mine:unverified", "user")
    long = {"sub": "l" * 200, "email": f"{'l' * 200}@example.com", "email_verified": True}
    names = set()
    for claims in (long, {**long, "sub": f"{'l' * 200}!"}, {"sub": "tab\t"}, {"sub": "tab\t!"}):
        plan(claims=claims)
        names.add(sign_in(visitor)["name"])
    assert len(names) == 4
    with closing(open_database(server.settings)) as database, database.write() as session:
        users.create_user(session, "mine:taken", role="admin")
    plan(claims={"sub": "taken"})
    assert sign_in(visitor)["role"] == "user"
    plan(claims={"sub": "8", "email": "boss@example.com", "email_verified": True})
    assert sign_in(visitor)["role"] == "admin"
    with closing(open_database(server.settings)) as database, database.read() as session:
        linked = audit.list_events(session, target=boss_id, action="link identity", limit=5)
        assert [event.detail for event in linked] == [{"provider": "mine"}]


def test_groups_give_and_take_roles_and_access(server: LiveServer, visitor: httpx.Client, plan: Plan) -> None:
    zoe = {"sub": "zoe", "email": "zoe@example.com", "email_verified": True}
    plan(claims={**zoe, "groups": ["staff", "operators"]})
    assert sign_in(visitor, "grouped")["role"] == "admin"
    with server.visit(cookies=visitor.cookies) as elsewhere:
        assert elsewhere.get("/api/v1/stats").status_code == 200
        plan(claims={**zoe, "groups": ["staff"]})
        assert sign_in(visitor, "grouped")["role"] == "user"
        assert elsewhere.get("/api/v1/stats").status_code == 401  # a changed role ends what was signed in
    with server.visit(cookies=visitor.cookies) as elsewhere:
        assert elsewhere.get("/api/v1/me").status_code == 200
        plan(claims={**zoe, "groups": ["visitors"]})
        assert "may not use this server" in refusal(visitor, "grouped")
        assert elsewhere.get("/api/v1/me").status_code == 401
    plan(claims={"sub": "stranger", "groups": "visitors"})
    assert "may not use this server" in refusal(visitor, "grouped")
    plan(claims=zoe, userinfo={"sub": "zoe", "groups": "staff"})
    assert sign_in(visitor, "grouped")["role"] == "user"


@pytest.mark.parametrize(
    "wrong",
    [
        {"claims": {"aud": "another client"}},
        {"claims": {"aud": "another client", "azp": CLIENT}},
        {"claims": {"aud": [CLIENT, "another client"], "azp": "another client"}},
        {"claims": {"iss": "https://elsewhere.example"}},
        {"claims": {"exp": 1_000_000_000}},
        {"claims": {"nonce": "of another sign-in"}},
        {"claims": {"sub": None}},
        {"signed": "not"},
        {"signed": "by another key"},
        {"denied": True},
        {
            "claims": {"sub": "5"},
            "userinfo": {"sub": "6", "email": "ada@example.com", "email_verified": True},
        },
    ],
    ids=lambda wrong: "-".join(f"{each}" for each in wrong.get("claims", wrong)),
)
def test_a_wrong_token_lets_nobody_in(visitor: httpx.Client, plan: Plan, wrong: dict[str, Any]) -> None:
    plan(**wrong)
    assert refusal(visitor) == "Signing in with Our Office did not work. Try again."


def test_a_state_is_of_one_browser_and_a_code_works_once(visitor: httpx.Client, plan: Plan) -> None:
    there = visitor.get("/login/with/mine", follow_redirects=False)
    back = httpx.get(there.headers["location"], **PLAIN).headers["location"]
    kept = dict(visitor.cookies)
    for forged in (
        back.replace("state=", "state=x"),
        back.replace("code=", "code=x"),
        f"{back.split('?')[0]}",
    ):
        visitor.cookies.update(kept)
        assert visitor.get(forged).url.path == "/login"
    with httpx.Client(**PLAIN, follow_redirects=True) as other:  # whose browser did not begin it
        assert other.get(back).url.path == "/login"
    visitor.cookies.update(kept)
    assert visitor.get(back).url.path == "/"
    visitor.cookies.clear()
    visitor.cookies.update(kept)
    assert visitor.get(back).url.path == "/login"
    visitor.cookies.clear()
    assert visitor.get("/api/v1/me").status_code == 401


def test_a_provider_that_is_silent_or_unknown(server: LiveServer, visitor: httpx.Client, plan: Plan) -> None:
    assert refusal(visitor, "gone") == "gone does not respond. Try again in a moment."
    assert visitor.get("/login/with/nobody").status_code == 404
    assert visitor.get("/login/with/nobody/return").status_code == 404
    assert visitor.get("/login?provider=nobody&trouble=failed").status_code == 200
    outside = visitor.get("/login/with/mine?next=//elsewhere.example", follow_redirects=False)
    back = httpx.get(outside.headers["location"], **PLAIN).headers["location"]
    assert visitor.get(back, follow_redirects=False).headers["location"] == "/"
    assert SECRET not in server.log.read_text()


def test_an_erased_or_disabled_person_does_not_come_back_as_they_were(
    server: LiveServer, visitor: httpx.Client, plan: Plan
) -> None:
    claims = {"sub": "temporary", "email": "temporary@example.com", "email_verified": True}
    plan(claims=claims)
    before = sign_in(visitor)
    with closing(open_database(server.settings)) as database, database.write() as session:
        found = users.find_user(session, before["name"])
        assert found is not None
        users.set_disabled(session, found.id, True)
    assert "may not use this server" in refusal(visitor)
    with closing(open_database(server.settings)) as database, database.write() as session:
        erase_user(session, found.id, by="test")
        assert session.exec(select(Identity).where(Identity.user_id == found.id)).all() == []
    assert sign_in(visitor)["id"] != before["id"]


def test_it_needs_accounts_and_complete_providers() -> None:
    whole = {"issuer": "https://id.example", "client_id": "x"}
    with pytest.raises(ValueError, match="is for THUMBLOOP_AUTH=accounts"):
        Settings(oidc={"mine": whole})  # type: ignore[dict-item]
    for broken in ({**whole, "issuer": "id.example"}, {**whole, "client_id": ""}, {**whole, "secret": "y"}):
        with pytest.raises(ValueError, match="oidc"):
            Settings(auth="accounts", oidc={"mine": broken})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="small letters"):
        Settings(auth="accounts", oidc={"My Office": whole})  # type: ignore[dict-item]
    settings = Settings(auth="accounts", oidc={"mine": whole})  # type: ignore[dict-item]
    assert (
        '"client_id": "x"'
        in in_environment(settings.model_dump(mode="json", exclude_unset=True))["THUMBLOOP_OIDC"]
    )
