"""The audit log over the API, on the command line and as a page; admins alone read it."""

import json

import httpx

from storage.db.database import Database
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.programs import run_command
from tests.support.rest import refused

AUDIT = "/api/v1/audit"


def test_what_an_admin_did_is_listed_newest_first_and_selected(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client, store: Database
) -> None:
    eve = http_loop.checked(stranger.get("/api/v1/me"))["id"]
    for quarantined in (True, False):
        body = {"quarantined": quarantined, "reason": "<i>a test</i>"}
        http_loop.checked(client.put(f"/api/v1/users/{eve}/quarantine", json=body))
    events = http_loop.checked(client.get(AUDIT, params={"target": eve}))["items"]
    found = [(event["action"], event["name"]) for event in events]
    assert found == [("release", "admin"), ("quarantine", "admin")]
    assert events[1]["detail"] == {"votes": 0, "reason": "<i>a test</i>"}
    first = http_loop.checked(client.get(AUDIT, params={"target": eve, "limit": 1}))
    rest = http_loop.checked(client.get(AUDIT, params={"target": eve, "cursor": first["next"]}))
    assert [first["items"], rest["items"]] == [events[:1], events[1:]]
    assert rest["next"] is None
    assert http_loop.checked(client.get(AUDIT, params={"target": eve, "actor": "gate"}))["items"] == []
    refused(stranger.get(AUDIT), 403, "admin_only")

    def thumbloop(*words: str) -> str:
        return run_command("audit", *words, environment=shared_server.environment).stdout

    said = thumbloop("--target", eve, "--action", "quarantine")
    assert "quarantine" in said
    assert "release" not in said
    assert "No event matches." in thumbloop("--actor", "7")
    lines = [json.loads(line) for line in thumbloop("--target", eve, "--json").splitlines()]
    assert [(one["id"], one["action"], one["detail"]) for one in lines] == [
        (one["id"], one["action"], one["detail"]) for one in events
    ]

    with store.write() as session:
        admin = ensure_user(session, "admin", "admin").id
        cookie = create_token(session, admin, name="browser", kind="session")[1]
        other = create_token(session, eve, name="browser", kind="session")[1]
    with shared_server.visit(cookies={"thumbloop_session": cookie}) as browser:
        page = browser.get("/admin/audit", params={"target": eve})
        assert page.status_code == 200
        assert "&lt;i&gt;a test&lt;/i&gt;" in page.text
        rows = page.text[page.text.index("<tbody>") :]
        assert rows.index(">release<") < rows.index(">quarantine<")
        assert "No event matches." in browser.get("/admin/audit", params={"actor": "7"}).text
    strangers: tuple[dict[str, str], ...] = ({}, {"thumbloop_session": other})
    for cookies in strangers:
        with shared_server.visit(cookies=cookies) as browser:
            assert browser.get("/admin/audit").status_code == 403
