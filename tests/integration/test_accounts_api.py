"""Accounts and API tokens over the REST API."""

import httpx

from tests.support import http_loop
from tests.support.live_server import LiveServer


def message(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_an_account_is_made_changed_and_locked_out(shared_server: LiveServer) -> None:
    with shared_server.client() as admin, shared_server.client("user") as person:
        new = {"name": "grace", "password": "a long password"}
        assert message(person.post("/api/v1/users", json=new), 403)
        assert "at least 10" in message(admin.post("/api/v1/users", json=new | {"password": "short"}), 422)
        grace = http_loop.checked(admin.post("/api/v1/users", json=new))
        assert "already" in message(admin.post("/api/v1/users", json=new), 409)
        listed = http_loop.checked(admin.get("/api/v1/users"))["items"]
        assert grace in listed
        address = f"/api/v1/users/{grace['id']}"
        with shared_server.visit() as browser:
            assert browser.post("/login", data=new).status_code == 303
            assert browser.get("/api/v1/me").status_code == 200
            changed = http_loop.checked(admin.patch(address, json={"role": "admin", "disabled": True}))
            assert (changed["role"], changed["disabled"]) == ("admin", True)
            assert browser.get("/api/v1/me").status_code == 401
            assert browser.post("/login", data=new).status_code == 401
        own = http_loop.checked(admin.get("/api/v1/me"))["id"]
        assert "your own account" in message(admin.patch(f"/api/v1/users/{own}", json={"role": "user"}), 409)
        with shared_server.visit() as visitor:
            visitor.get("/")
            stranger = http_loop.checked(visitor.get("/api/v1/me"))["id"]
        refused = admin.patch(f"/api/v1/users/{stranger}", json={"role": "admin"})
        assert "no account" in message(refused, 409)
        events = http_loop.checked(admin.get("/api/v1/audit", params={"target": grace["id"]}))["items"]
        assert {"create user", "set role", "disable user"} <= {event["action"] for event in events}


def test_a_token_is_shown_once_and_revoked(shared_server: LiveServer) -> None:
    with shared_server.client() as admin:
        assert "days is -1" in message(admin.post("/api/v1/tokens", json={"name": "r2", "days": -1}), 422)
        issued = http_loop.checked(admin.post("/api/v1/tokens", json={"name": "r2", "days": 2}))
        with shared_server.visit(headers={"Authorization": f"Bearer {issued['token']}"}) as robot:
            assert robot.get("/api/v1/me").json()["name"] == "r2"
            assert issued["token"] not in admin.get("/api/v1/tokens").text
            assert admin.delete(f"/api/v1/tokens/{issued['id']}").status_code == 204
            assert robot.get("/api/v1/me").status_code == 401


SCOPED = [  # scopes, a request, and whether they allow it
    (["read"], ("GET", "/api/v1/votes"), True),
    (["read"], ("GET", "/api/v1/export/count"), True),
    (["read"], ("POST", "/api/v1/chats"), False),
    (["vote"], ("GET", "/api/v1/votes"), False),
    (["vote"], ("GET", "/api/v1/vote-tags"), True),
    (["vote"], ("POST", "/api/v1/chats"), False),
    (["chat"], ("POST", "/api/v1/chats"), True),
    (["chat"], ("GET", "/v1/models"), True),
    (["chat"], ("GET", "/api/v1/tokens"), False),
    (["train"], ("GET", "/api/v1/training-runs"), True),
    (["train"], ("GET", "/v1/models"), False),
    (["train"], ("POST", "/api/v1/tokens"), False),
    (["train", "chat"], ("GET", "/v1/models"), True),
    ([], ("GET", "/api/v1/tokens"), True),
]


def test_scopes_confine_a_token(shared_server: LiveServer) -> None:
    with shared_server.client() as admin, shared_server.visit() as robot:
        reply = http_loop.chat_once(admin, "Hello")["message_id"]
        issued = {}
        for scopes, (method, path), allowed in SCOPED:
            known = ",".join(scopes)
            if known not in issued:
                body = {"name": "confined", "role": "admin", "scopes": scopes}
                issued[known] = http_loop.checked(admin.post("/api/v1/tokens", json=body))
            bearer = {"Authorization": f"Bearer {issued[known]['token']}"}
            body = {"json": {}} if method == "POST" else {}
            answer = robot.request(method, path, headers=bearer, **body)
            assert (answer.status_code == 403) is not allowed, (scopes, method, path, answer.text)
            if not allowed:
                assert f"{method} {path}" in message(answer, 403)
        assert issued["train,chat"]["scopes"] == ["chat", "train"]
        listed = {one["id"]: one["scopes"] for one in admin.get("/api/v1/tokens").json()["items"]}
        assert listed[issued["read"]["id"]] == ["read"]
        for scope, status in (("vote", 403), ("read", 403), ("", 403)):
            bearer = {"Authorization": f"Bearer {issued[scope]['token']}"}
            vote = robot.put(f"/api/v1/messages/{reply}/vote", headers=bearer, json={"label": True})
            assert vote.status_code == status, vote.text
        refused = admin.post("/api/v1/tokens", json={"name": "confined", "scopes": ["admin"]})
        assert "scopes" in message(refused, 422)


def test_a_person_chooses_a_password_by_a_link_that_works_once(shared_server: LiveServer) -> None:
    with shared_server.client() as admin, shared_server.visit() as browser:
        new = http_loop.checked(admin.post("/api/v1/users", json={"name": "invited"}))
        address = f"/api/v1/users/{new['id']}/password-link"
        first, link = (http_loop.checked(admin.post(address))["link"] for _ in range(2))
        assert link.startswith(f"{shared_server.url}/password-link?token=tl_")
        assert "ask an admin" in browser.get(first).text  # a newer link ends it
        secret = {"token": link.partition("token=")[2]}
        assert 'value="invited"' in browser.get(link).text
        assert browser.get(link).status_code == 200  # to look at it uses nothing up
        short = browser.post("/password-link", data=secret | {"new": "short"})
        assert (short.status_code, "at least 10" in short.text) == (422, True)
        password = {"new": "a chosen password"}
        assert browser.post("/password-link", data=secret | password).headers["location"] == "/"
        assert http_loop.checked(browser.get("/api/v1/me"))["name"] == "invited"
        for again in (browser.get(link), browser.post("/password-link", data=secret | password)):
            assert (again.status_code, "ask an admin" in again.text) == (403, True)
        with shared_server.visit() as other:
            form = {"name": "invited", "password": password["new"]}
            assert other.post("/login", data=form).status_code == 303

            secret = {"token": http_loop.checked(admin.post(address))["link"].partition("token=")[2]}
            assert http_loop.checked(other.get("/api/v1/me"))["name"] == "invited"  # not before it is used
            assert (
                other.get("/api/v1/me", headers={"Authorization": f"Bearer {secret['token']}"}).status_code
                == 401
            )
            assert (
                browser.post("/password-link", data=secret | {"new": "another password"}).status_code == 303
            )
            assert other.get("/api/v1/me").status_code == 401
            assert other.post("/login", data=form).status_code == 401
        secret = {"token": http_loop.checked(admin.post(address))["link"].partition("token=")[2]}
        http_loop.checked(admin.patch(f"/api/v1/users/{new['id']}", json={"disabled": True}))
        assert browser.post("/password-link", data=secret | password).status_code == 403
        assert "disabled" in message(admin.post(address), 409)
        actions = {
            event["action"] for event in admin.get("/api/v1/audit", params={"limit": 100}).json()["items"]
        }
        assert {"create password link", "set password"} <= actions
    assert secret["token"] not in shared_server.log.read_text()
