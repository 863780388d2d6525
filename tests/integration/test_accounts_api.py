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
