"""What a running server tells Prometheus, who may read it, and the ids of its requests."""

import json
import re
from contextlib import closing

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from storage.db.database import open_database
from storage.db.tables import TrainingRun
from tests.support import REPOSITORY, http_loop
from tests.support.live_server import LiveServer, get, wait_until
from tests.support.rest import refused

DOCS = REPOSITORY / "docs"
MOST = 20  # replies of one person in a minute
TOKEN = "scraper-0123456789abcdef"
HELLO = {"model": "deployed", "messages": [{"role": "user", "content": "Hello"}]}

Figures = dict[tuple[str, ...], float]  # by the sample's name and the values of its labels


@pytest.fixture(scope="module")
def server_settings() -> dict[str, object]:
    return {"metrics_token": TOKEN, "max_replies_per_minute": MOST}


def scrape(server: LiveServer) -> httpx.Response:
    return get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})


def figures(server: LiveServer) -> Figures:
    answer = scrape(server)
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def grown(before: Figures, after: Figures) -> Figures:
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def test_the_scrapers_token_and_admins_read_them_and_nobody_else(
    shared_server: LiveServer, client: httpx.Client, stranger: httpx.Client
) -> None:
    assert scrape(shared_server).headers["content-type"].startswith("text/plain; version=0.0.4")
    assert client.get("/metrics").status_code == 200
    refused(stranger.get("/metrics"), 403, "admin_only")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"thumbloop_session={TOKEN}"}):
        refused(get(f"{shared_server.url}/metrics", headers=headers), 401, "not_authenticated")
    for path in ("/api/v1/stats", "/api/v1/me", "/v1/models"):
        answer = get(f"{shared_server.url}{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 401


def test_replies_tokens_votes_errors_and_runs_are_counted(
    shared_server: LiveServer, client: httpx.Client
) -> None:
    before = figures(shared_server)
    body = HELLO | {"max_tokens": 8, "seed": 1}
    reply = http_loop.checked(client.post("/v1/chat/completions", json=body))
    for label in (True, False):
        http_loop.vote(client, reply["id"], label)
    http_loop.checked(client.delete(f"/api/v1/messages/{reply['id']}/vote"))
    too_long = body | {"messages": [{"role": "user", "content": "word " * 3000}]}
    assert client.post("/v1/chat/completions", json=too_long).status_code == 400
    with closing(open_database(shared_server.settings)) as database, database.write() as session:
        session.add(TrainingRun(trigger="api", state="skipped"))
    change = grown(before, figures(shared_server))
    usage = reply["usage"]
    assert change["thumbloop_tokens_total", "prompt"] == usage["prompt_tokens"]
    assert change["thumbloop_tokens_total", "reply"] == usage["completion_tokens"]
    assert change["thumbloop_replies_total", reply["choices"][0]["finish_reason"]] == 1
    assert change["thumbloop_reply_errors_total", "prompt_too_long"] == 1
    assert change["thumbloop_first_token_seconds_count",] == 1
    assert change["thumbloop_queue_seconds_count",] == 1
    assert 0 < change["thumbloop_inter_token_seconds_count",] < usage["completion_tokens"]
    for kind in ("up", "down", "taken_back"):
        assert change["thumbloop_votes_total", kind] == 1
    assert change["thumbloop_training_runs", "skipped"] == 1
    assert change["thumbloop_http_responses_total", "openai", "200"] == 1
    assert change["thumbloop_http_responses_total", "openai", "400"] == 1
    now = figures(shared_server)
    assert now["thumbloop_replies_running",] == now["thumbloop_replies_waiting",] == 0
    assert now["thumbloop_slots",] == now["thumbloop_deployed_version",] == 1


def test_no_label_names_anything_that_can_grow_without_bound(
    shared_server: LiveServer, client: httpx.Client
) -> None:
    body = HELLO | {"max_tokens": 1}

    def series() -> set[tuple[str, ...]]:
        for number in range(3):
            http_loop.checked(client.post("/v1/chat/completions", json=body | {"user": f"person {number}"}))
            client.get(f"/api/v1/nothing/{number}")
            client.get(f"/v1/models/gpt-{number}")
        return set(figures(shared_server))

    first = series()
    assert series() == first
    assert not [key for key in first if "person" in str(key) or "gpt-" in str(key) or "nothing" in str(key)]


def test_the_dashboard_and_the_page_know_exactly_these_metrics(shared_server: LiveServer) -> None:
    given = set(re.findall(r"^# TYPE (\S+)", scrape(shared_server).text, flags=re.MULTILINE))
    ours = {name for name in given if name.startswith("thumbloop_")}
    panels = json.loads((DOCS / "grafana.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    used = {name for query in queries for name in re.findall(r"\b(?:thumbloop|process)_\w+", query)}
    used = {name.removesuffix("_bucket") for name in used}
    assert used <= given
    assert ours <= used
    assert ours == set(re.findall(r"`(thumbloop_\w+)`", (DOCS / "observability.md").read_text()))
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)


def test_every_answer_has_an_id_that_the_log_names(shared_server: LiveServer, client: httpx.Client) -> None:
    given = client.get("/healthz", headers={"X-Request-ID": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    for forged in ("a b", "x" * 65, "line%0abreak]"):
        assert client.get("/healthz", headers={"X-Request-ID": forged}).headers["x-request-id"] != forged
    answers = [
        client.get("/api/v1/me"),
        client.get("/api/v1/chats/1"),
        client.post("/v1/chat/completions", json=HELLO | {"stream": True}),
        get(f"{shared_server.url}/api/v1/me"),
        get(f"{shared_server.url}/api/v1/me", headers={"Host": "elsewhere.example"}),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert [answer.status_code for answer in answers] == [200, 404, 200, 401, 403]

    def logged() -> bool:
        lines = shared_server.log.read_text().splitlines()
        return all(any(line.endswith(f"[{one}]") for line in lines) for one in ids)

    wait_until(logged, 60, lambda: shared_server.log.read_text())


def test_who_asks_too_often_is_told_when_to_come_back(shared_server: LiveServer) -> None:
    with shared_server.client("user", "hasty") as client:
        body = HELLO | {"max_tokens": 1, "user": "ann"}
        for _ in range(MOST):
            http_loop.checked(client.post("/v1/chat/completions", json=body))
        before = http_loop.checked(client.get("/api/v1/chats"))
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 429
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
        assert 0 < int(answer.headers["retry-after"]) <= 60
        assert http_loop.checked(client.get("/api/v1/chats")) == before, "a refusal leaves no chat"
        http_loop.checked(client.post("/v1/chat/completions", json=body | {"user": "bob"}))
