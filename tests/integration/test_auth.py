"""Who gets in and what is kept out: sessions, sign-in, other web sites, and every route of Gradio."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import pytest
from starlette.responses import Response

from app.pages.admin.frame import PAGES
from app.web.auth import check_safe, identity_of, resolve, set_cookie, start_session
from app.web.page_guard import Owners
from storage.db.database import Database, open_database
from storage.errors import BadSetting, NotAuthenticated
from storage.people.users import create_user
from storage.settings import Settings
from tests.support.live_server import LiveServer, StartServer, get

COOKIE = "thumbloop_session"
ADMIN_COOKIE = "thumbloop_admin"


@pytest.fixture
def visitor(shared_server: LiveServer) -> Iterator[httpx.Client]:
    """A browser that has opened the chat page."""
    with shared_server.visit() as client:
        assert client.get("/").status_code == 200
        yield client


@pytest.fixture(scope="module")
def admin(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.visit(follow_redirects=True) as client:
        assert client.get(shared_server.admin_link()).status_code == 200
        yield client


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text[:300]
    return str(response.json()["error"]["code"])


def test_a_first_visit_makes_a_session_that_the_api_takes_too(shared_server: LiveServer) -> None:
    with shared_server.visit() as client:
        page = client.get("/")
        cookie = page.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=tl_")
        for part in ("HttpOnly", "SameSite=lax", "Path=/"):
            assert part in cookie
        assert "Secure" not in cookie
        mine = client.get("/api/v1/me").json()
        assert (mine["name"], mine["role"]) == ("anonymous", "user")
        assert "set-cookie" not in client.get("/").headers
        assert client.get("/api/v1/me").json() == mine
    assert "set-cookie" not in get(f"{shared_server.url}/api/v1/me").headers


def test_pages_carry_headers_that_bind_the_browser(visitor: httpx.Client) -> None:
    page = visitor.get("/", headers={"Origin": "https://elsewhere.example"})
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    nonce = policy.split("'nonce-")[1].split("'")[0]
    assert page.text.count("<script") == page.text.count(f'<script nonce="{nonce}"') > 0
    assert nonce not in visitor.get("/").text
    assert page.headers["cache-control"] == "no-store"
    for answer in (page, visitor.get("/theme.css"), visitor.get("/healthz"), visitor.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "content-security-policy" in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


def test_a_browser_that_has_lost_its_way_gets_a_page(shared_server: LiveServer) -> None:
    with shared_server.visit(headers={"Accept": "text/html,*/*"}) as browser:
        lost = browser.get("/no/such/page")
        assert lost.status_code == 404
        assert 'href="/">Back to the chat' in lost.text
        assert error(browser.get("/api/v1/nothing"), 404) == "not_found"


def test_other_web_sites_cannot_act_for_a_visitor(shared_server: LiveServer, visitor: httpx.Client) -> None:
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{shared_server.url}.evil.example"},
        {"Origin": shared_server.url, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert error(visitor.post("/api/v1/chats", headers=headers), 403) == "cross_site"
        assert error(visitor.post("/gradio_api/queue/join", headers=headers), 403) == "cross_site"
        assert error(visitor.post("/login", headers=headers), 403) == "cross_site"
    own = {"Origin": shared_server.url, "Sec-Fetch-Site": "same-origin"}
    assert visitor.post("/api/v1/chats", headers=own).status_code == 201
    with shared_server.client("user") as program:  # no browser adds a bearer token by itself
        assert program.post("/api/v1/chats", headers={"Origin": "https://app.example"}).status_code == 201
    # A foreign name that points to this machine (DNS rebinding).
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert error(visitor.get("/api/v1/me", headers=rebound), 403) == "wrong_host"


def test_nothing_of_gradio_is_reached_without_a_session(
    shared_server: LiveServer, visitor: httpx.Client
) -> None:
    used = [("GET", path) for path in ("/config", "/theme.css", "/assets/x.js")]
    used += [("GET", "/static/js/iframeResizer.contentWindow.min.js")]
    used += [
        ("GET", f"/gradio_api/{path}")
        for path in ("info", "app_id", "heartbeat/abc", "queue/data?session_hash=abc")
    ]
    used += [("POST", f"/gradio_api/{path}") for path in ("queue/join", "cancel", "reset")]
    unused = [("GET", "/monitoring"), ("OPTIONS", "/config")]
    unused += [
        ("GET", f"/gradio_api/{path}")
        for path in (
            *("token", "user", "startup-events", "file=/etc/passwd", "file/etc/passwd", "runs", "deep_link"),
            *("proxy=https://example.com", "openapi.json", "queue/status", "dev/reload"),
        )
    ]
    unused += [
        ("POST", f"/gradio_api/{path}")
        for path in (
            *("upload", "call/predict", "stream/abc", "vibe-edit", "process_recording"),
            *("run/predict", "component_server"),
        )
    ]
    no_session: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": f"Bearer {shared_server.token()}"},
        {"Cookie": f"{COOKIE}=tl_{'x' * 43}"},
    )
    for method, path in used:
        for headers in no_session:
            with shared_server.visit(headers=headers) as other:
                answer = other.request(method, path)
            assert error(answer, 401) == "not_authenticated", path
    for method, path in unused:
        assert error(visitor.request(method, path), 404) == "not_found", path
    assert visitor.get("/config").status_code == 200


def test_an_admin_s_page_and_what_it_does_are_for_admins(
    shared_server: LiveServer, visitor: httpx.Client, admin: httpx.Client
) -> None:
    for path in PAGES:
        assert visitor.get(path).status_code == 403, path
        assert admin.get(path).status_code == 200, path
        assert get(f"{shared_server.url}{path}").status_code == 403, path
    for path in ("training", "people", "people/tokens", "versions/rollback", "versions/v1/deploy"):
        assert visitor.post(f"/admin/{path}", data={"name": "eve", "force": "true"}).status_code == 403, path
    with shared_server.visit(headers={"Authorization": f"Bearer {shared_server.token()}"}) as program:
        assert program.get("/admin/").status_code == 403  # pages are for browsers


def test_a_gradio_session_belongs_to_who_first_used_it(
    shared_server: LiveServer, visitor: httpx.Client
) -> None:
    dependencies = visitor.get("/config").json()["dependencies"]
    (load,) = [d for d in dependencies if any(target[1] == "load" for target in d["targets"])][:1]
    body = {"data": [None] * len(load["inputs"]), "fn_index": load["id"], "session_hash": "mine"}
    joined = visitor.post("/gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    event_id = joined.json()["event_id"]
    cancel = {"session_hash": "mine", "fn_index": load["id"], "event_id": event_id}
    with shared_server.visit() as stranger:
        stranger.get("/")
        for response in (
            stranger.get("/gradio_api/queue/data", params={"session_hash": "mine"}),
            stranger.get("/gradio_api/queue/data?session_hash=other&session_hash=mine"),
            stranger.get("/gradio_api/heartbeat/mine"),
            stranger.get("/gradio_api/heartbeat/%6dine"),
            stranger.post("/gradio_api/queue/join", json=body),
            stranger.post("/gradio_api/cancel", json=cancel),
            stranger.post("/gradio_api/cancel", json=cancel | {"session_hash": "own"}),
            stranger.post("/gradio_api/reset", json={"event_id": event_id}),
        ):
            assert error(response, 403) == "not_your_session", response.url
        for nameless in ({"data": []}, {"data": [], "session_hash": 1}, []):
            assert error(stranger.post("/gradio_api/queue/join", json=nameless), 422) == "invalid_input"
    with visitor.stream("GET", "/gradio_api/queue/data", params={"session_hash": "mine"}) as events:
        assert any("process_completed" in line for line in events.iter_lines())
    assert visitor.post("/gradio_api/reset", json={"event_id": event_id}).status_code == 200


def test_what_gradio_fails_at_is_not_found_and_logs_one_line(
    shared_server: LiveServer, visitor: httpx.Client
) -> None:
    visitor.get("/")
    for unknown in (99_999, "x", None):
        body = {"data": [], "fn_index": unknown, "session_hash": "unknown"}
        assert visitor.post("/gradio_api/queue/join", json=body).status_code in (400, 404, 422)
    assert "Traceback" not in shared_server.log.read_text()


def test_owners_are_remembered_while_they_are_used() -> None:
    owners = Owners(most=2)
    assert owners.claim("a", "ada")
    assert not owners.claim("a", "bob")
    assert owners.claim("b", "bob")
    assert owners.claim("a", "ada")
    assert owners.claim("c", "bob")  # forgets b, the least recently used
    assert not owners.claim("a", "bob")
    assert not owners.owns("b", "bob")


def test_the_admin_link_works_once_and_is_in_no_log(shared_server: LiveServer, visitor: httpx.Client) -> None:
    refused = visitor.get("/admin/")
    assert refused.status_code == 403
    assert "thumbloop admin-link" in refused.text
    assert visitor.get("/admin").headers["location"] == "/admin/"
    link = shared_server.admin_link()
    with shared_server.visit() as client:
        answer = client.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/")
        assert client.get("/admin/").status_code == 200
        assert client.get("/api/v1/stats").status_code == 200
    again = get(link)
    assert again.status_code == 403
    assert "used already" in again.text
    assert "set-cookie" not in again.headers
    log = shared_server.log.read_text()
    assert link.partition("token=")[2] not in log
    assert "/admin?token=" not in log  # nor has the start printed one: the output is no terminal


def test_the_admin_link_leaves_a_visitor_the_chats(shared_server: LiveServer, visitor: httpx.Client) -> None:
    me = visitor.get("/api/v1/me").json()
    chat_id = visitor.post("/api/v1/chats").json()["id"]
    assert error(visitor.get("/api/v1/stats"), 403) == "admin_only"
    cookie = visitor.get(shared_server.admin_link()).headers["set-cookie"]
    assert cookie.startswith(f"{ADMIN_COOKIE}=tl_")
    for part in ("HttpOnly", "SameSite=lax", "Path=/"):
        assert part in cookie
    assert visitor.get("/admin/training").status_code == 200
    assert visitor.get("/api/v1/stats").status_code == 200
    assert visitor.get(f"/api/v1/chats/{chat_id}").status_code == 200
    assert visitor.get("/api/v1/me").json() == me
    large = {"file": ("votes.jsonl", b"\n" * 70_000)}  # more than a stranger may send
    assert visitor.post("/api/v1/import", files=large).json()["accepted"] == 0
    # The role ends with its own session, here by signing out.
    kept = {ADMIN_COOKIE: visitor.cookies[ADMIN_COOKIE]}
    assert visitor.post("/logout").headers["location"] == "/"
    assert ADMIN_COOKIE not in visitor.cookies
    assert visitor.get("/api/v1/me").json() == me
    assert error(visitor.get("/api/v1/stats"), 403) == "admin_only"
    assert error(get(f"{shared_server.url}/api/v1/stats", cookies=kept), 401) == "not_authenticated"


def test_people_with_accounts_sign_in_and_out(start_server: StartServer) -> None:
    server = start_server(auth="accounts")
    database = open_database(server.settings)
    with database.write() as session:
        create_user(session, "ada", password="correct horse")
    database.close()
    with server.visit() as client:
        assert client.get("/?chat=new").headers["location"] == "/login?next=/%3Fchat%3Dnew"
        assert client.get("/admin/").headers["location"] == "/login?next=/admin/"
        assert error(client.get("/config"), 401) == "not_authenticated"
        assert "set-cookie" not in client.get("/login").headers
        form = {"name": "ada", "password": "wrong horse", "next": "/"}
        for wrong in (form, form | {"name": "<b>\x00"}, {}):
            answer = client.post("/login", data=wrong)
            assert answer.status_code == 401
            assert "name or the password is wrong" in answer.text
            assert "<b>" not in answer.text
            assert "set-cookie" not in answer.headers
        right = form | {"password": "correct horse"}
        for target in ("https://evil.example", "//evil.example", "/\\evil.example", "evil"):
            assert client.post("/login", data=right | {"next": target}).headers["location"] == "/"
        assert client.post("/login", data=right | {"next": "/?chat=new"}).headers["location"] == "/?chat=new"
        answer = client.post("/login", data=right | {"next": "/admin/"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/admin/")
        assert client.get("/login").headers["location"] == "/"
        assert client.get("/").status_code == 200
        assert client.get("/admin/").status_code == 403
        assert client.get("/api/v1/me").json()["name"] == "ada"
        kept = client.cookies[COOKIE]
        assert client.post("/logout").headers["location"] == "/login"
        assert COOKIE not in client.cookies
        assert get(f"{server.url}/api/v1/me", cookies={COOKIE: kept}).status_code == 401
        # With accounts, any name may lead here: a proxy keeps its own.
        assert client.get("/healthz", headers={"Host": "chat.example"}).status_code == 200


def test_a_session_over_https_is_bound_to_its_host(database: Database) -> None:
    with database.write() as session:
        ada = create_user(session, "ada")
    settings = Settings()
    with database.write() as session:
        plain = start_session(session, ada.id, settings)
    response = Response()
    set_cookie(response, plain, settings, secure=True)
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"__Host-{COOKIE}={plain};")
    assert "Secure" in cookie
    assert "Domain" not in cookie
    for name, secure, known in (
        (f"__Host-{COOKIE}", True, True),
        (COOKIE, True, False),  # another host or an http page could have set this one
        (COOKIE, False, True),
        (f"__Host-{COOKIE}", False, False),
    ):
        assert bool(resolve(database, {}, {name: plain}, secure=secure)) is known


def test_a_gradio_request_without_its_scope_is_known_by_its_cookie(database: Database) -> None:
    with database.write() as session:
        ada = create_user(session, "ada")
    with database.write() as session:
        plain = start_session(session, ada.id, Settings())
    services: Any = SimpleNamespace(database=database)

    def rebuilt(**cookies: str) -> gr.Request:
        return gr.Request(headers={}, cookies=cookies, url="http://127.0.0.1:7860/")

    assert identity_of(rebuilt(**{COOKIE: plain}), services).user_id == ada.id
    with pytest.raises(NotAuthenticated, match="reload"):
        identity_of(rebuilt(), services)


def test_settings_that_let_everyone_in_from_everywhere_are_refused() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "chat.example", ""):
        with pytest.raises(BadSetting, match="THUMBLOOP_AUTH"):
            check_safe(Settings(host=host))
        check_safe(Settings(host=host, auth="accounts"))
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.2"):
        check_safe(Settings(host=host))


@pytest.fixture
def accounts(start_server: StartServer) -> LiveServer:
    server = start_server(auth="accounts")
    database = open_database(server.settings)
    with database.write() as session:
        create_user(session, "ada", password="correct horse")
        create_user(session, "bob", password="correct horse")
    database.close()
    return server


def signed_in(server: LiveServer, name: str, **options: Any) -> httpx.Client:
    client = server.visit(**options)
    form = {"name": name, "password": "correct horse"}
    assert client.post("/login", data=form).status_code == 303
    return client


def test_sessions_are_listed_and_ended_by_their_owner_and_by_admins(accounts: LiveServer) -> None:
    assert "thumbloop admin-link" in accounts.log.read_text()
    first, second, bob = (signed_in(accounts, name) for name in ("ada", "ada", "bob"))
    with accounts.client() as admin, accounts.client("user") as program:
        ada_id = first.get("/api/v1/me").json()["id"]
        mine = first.get("/api/v1/me/sessions").json()["items"]
        assert len(mine) == 2
        assert set(mine[0]) == {"id", "created_at", "expires_at"}
        assert error(bob.delete(f"/api/v1/me/sessions/{mine[0]['id']}"), 404) == "not_found"
        assert error(program.get(f"/api/v1/users/{ada_id}/sessions"), 403) == "admin_only"
        assert error(program.delete(f"/api/v1/users/{ada_id}/sessions"), 403) == "admin_only"
        assert first.delete(f"/api/v1/me/sessions/{mine[0]['id']}").json() == {"ended": 1}
        assert error(second.get("/api/v1/me"), 401) == "not_authenticated"
        page = first.get("/sessions").text
        assert page.count("End this session") == 1
        assert "this browser" in page
        assert admin.get(f"/api/v1/users/{ada_id}/sessions").json()["items"] == mine[1:]
        assert admin.delete(f"/api/v1/users/{ada_id}/sessions").json() == {"ended": 1}
        assert error(first.get("/api/v1/me"), 401) == "not_authenticated"
        assert first.get("/sessions").headers["location"] == "/login?next=/sessions"
        assert bob.post("/sessions", data={"session_id": mine[0]["id"]}).status_code == 303
        assert bob.get("/api/v1/me").status_code == 200
        assert bob.post("/sessions").headers["location"] == "/sessions"
        assert error(bob.get("/api/v1/me"), 401) == "not_authenticated"


def test_people_change_their_own_password(accounts: LiveServer) -> None:
    first, second = signed_in(accounts, "ada"), signed_in(accounts, "ada")
    form = {"current": "wrong horse", "new": "battery staple"}
    wrong = first.post("/password", data=form)
    assert wrong.status_code == 401
    assert "password is wrong" in wrong.text
    form["current"] = "correct horse"
    assert first.post("/password", data=form | {"new": "short"}).status_code == 422
    assert second.get("/api/v1/me").json()["name"] == "ada"
    assert first.post("/password", data=form).headers["location"] == "/sessions"
    assert first.get("/sessions").text.count("End this session") == 1
    assert error(second.get("/api/v1/me"), 401) == "not_authenticated"
    with accounts.visit() as third:
        assert third.post("/password", data=form).headers["location"] == "/login?next=/sessions"
        old = {"name": "ada", "password": "correct horse"}
        assert third.post("/login", data=old).status_code == 401
        assert third.post("/login", data=old | {"password": "battery staple"}).status_code == 303


def test_sign_ins_that_fail_often_wait_and_forwarded_headers_count_from_trusted_proxies(
    accounts: LiveServer,
) -> None:
    wrong = {"name": "ada", "password": "wrong horse"}
    with accounts.visit() as client:
        answers = [client.post("/login", data=wrong) for _ in range(5)]
        while answers[-1].status_code != 429 and len(answers) < 20:  # the first delays are short, and double
            answers.append(client.post("/login", data=wrong))
        answer = answers.pop()
        assert {one.status_code for one in answers} == {401}
        assert len(answers) >= 5
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert "try again in" in answer.text
    through_tls = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    form = {"name": "bob", "password": "correct horse"}
    with accounts.visit(headers=through_tls) as client:
        answer = client.post("/login", data=form)
        assert answer.headers["set-cookie"].startswith(f"__Host-{COOKIE}=")
        assert "Secure" in answer.headers["set-cookie"]


def test_forwarded_headers_count_from_the_trusted_addresses_alone(start_server: StartServer) -> None:
    server = start_server(trusted_proxies=["127.0.0.2/32"])
    for address, begin in (("127.0.0.2", f"__Host-{COOKIE}="), ("127.0.0.1", f"{COOKIE}=")):
        comes_from = httpx.HTTPTransport(local_address=address)
        with server.visit(transport=comes_from, headers={"X-Forwarded-Proto": "https"}) as client:
            assert client.get("/").headers["set-cookie"].startswith(begin)


def test_strangers_send_short_bodies_only(shared_server: LiveServer, visitor: httpx.Client) -> None:
    long = b'{"title": "' + b"x" * 100_000 + b'"}'
    for headers in ({}, {"Authorization": f"Bearer tl_{'x' * 43}"}):
        with shared_server.visit(headers=headers) as other:
            assert error(other.post("/api/v1/chats", content=long), 401) == "not_authenticated"
            form = other.post("/login", data={"name": "x" * 100_000})
            assert error(form, 401) == "not_authenticated"
    assert error(visitor.post("/api/v1/chats", json={"title": "x" * 100_000}), 422) == "invalid_input"


def test_visitors_are_limited(start_server: StartServer) -> None:
    server = start_server()
    statuses = [get(server.url).status_code for _ in range(122)]
    assert statuses[0] == 200
    assert statuses[-2:] == [429, 429]
