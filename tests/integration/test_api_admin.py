"""What admins do over the REST API: train, deploy, export, import, and look at the figures."""

import json
from contextlib import closing

import httpx
import pytest

from storage.db.database import open_database
from storage.registry import training_runs
from tests.support import http_loop
from tests.support.live_server import LiveServer, StartServer, read_events
from tests.support.rest import refused


def test_a_training_run_is_requested_followed_and_over(
    shared_server: LiveServer, client: httpx.Client
) -> None:
    for _ in range(5):  # without votes it is over in a second, and a busy machine may be as slow
        answer = client.post("/api/v1/training-runs", json={"fresh": True})
        assert answer.status_code == 202
        run = answer.json()
        assert run["state"] == "requested"
        second = client.post("/api/v1/training-runs", json={"force": True})
        if second.status_code != 202:
            break
        http_loop.wait_for_run(shared_server, client, second.json()["id"])
    refused(second, 409, "run_active")
    refused(client.post("/api/v1/training-runs", json={"force": "yes"}), 422, field="force")
    refused(client.post("/api/v1/training-runs", json={"fresh": "yes"}), 422, field="fresh")
    assert http_loop.checked(client.get("/api/v1/stats"))["active_run"] in (run["id"], None)
    path = f"/api/v1/training-runs/{run['id']}"
    with client.stream("GET", f"{path}/events") as response:
        events = list(read_events(response))
    assert {name for name, _ in events[:-1]} <= {"progress"}
    name, end = events[-1]
    assert name == "done"
    assert end["state"] == "skipped"
    assert "thumbs" in end["reason"]
    assert {"id", "state", "progress", "metrics", "model_version", "reason"} <= set(end)
    assert http_loop.checked(client.get(path)) == end
    with closing(open_database(shared_server.settings)) as database, database.read() as session:
        assert training_runs.get_run(session, run["id"]).settings["training_mode"] == "fresh"
    assert http_loop.checked(client.get("/api/v1/training-runs", params={"limit": 1}))["items"] == [end]
    log = client.get(f"{path}/log")
    assert log.headers["content-type"].startswith("text/plain")
    refused(client.post(f"{path}/cancel"), 409)


def test_versions_by_name_and_id(client: httpx.Client, stranger: httpx.Client) -> None:
    (v1,) = http_loop.checked(stranger.get("/api/v1/model-versions"))["items"]
    assert (v1["name"], v1["state"], v1["deployed"], v1["share"]) == ("v1", "ready", True, 1.0)
    for name in ("v1", v1["id"]):
        assert http_loop.checked(client.get(f"/api/v1/model-versions/{name}")) == v1
    assert http_loop.checked(client.post("/api/v1/model-versions/v1/deploy"))["deployed"] is True
    refused(client.post("/api/v1/model-versions/v2/deploy", json={"why": "Why not?"}), 404, "not_found")
    refused(client.post("/api/v1/rollback"), 409)
    assert http_loop.checked(client.get("/api/v1/model-versions", params={"cursor": v1["id"]}))["items"] == []


def test_feedback_goes_in_and_comes_out(start_server: StartServer) -> None:
    with start_server().client() as client:
        rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n < 3} for n in range(5)]
        lines = "\n".join(json.dumps(row) for row in rows).encode()
        report = http_loop.checked(client.post("/api/v1/import", content=lines))
        assert report == {"accepted": 5, "duplicates": 0, "rejected": []}
        again = http_loop.checked(client.post("/api/v1/import", files={"file": ("votes.jsonl", lines)}))
        assert (again["accepted"], again["duplicates"]) == (0, 5)
        refused(client.post("/api/v1/import", files={"other": ("votes.jsonl", lines)}), 422, field="file")
        bad = client.post("/api/v1/import", params={"skip_bad": True}, content=b'{"label": 1}\n')
        assert http_loop.checked(bad)["rejected"][0]["line"] == 1

        stats = http_loop.checked(client.get("/api/v1/stats"))
        assert stats["votes"] == {"up": 3, "down": 2}
        ratio = 3 * stats["weights"]["desirable"] / (2 * stats["weights"]["undesirable"])
        assert 1 <= ratio <= 4 / 3
        assert stats["versions"][0]["name"] == "v1"
        first = http_loop.checked(client.get("/api/v1/deployments"))["items"][-1]
        assert (first["version"], first["why"]) == ("v1", "The base model answers first.")
        assert stats["schedule"]["next_run"] is None
        assert stats["readiness"]["ready"] is True

        export = client.get("/api/v1/export", params={"format": "jsonl"})
        assert export.status_code == 200
        assert int(export.headers["x-thumbloop-snapshot"]) >= 5
        assert "attachment" in export.headers["content-disposition"]
        exported = [json.loads(line) for line in export.text.splitlines()]
        assert [row["label"] for row in exported] == [row["label"] for row in rows]
        assert exported[0]["completion"] == [{"role": "assistant", "content": "Answer 0."}]
        first = http_loop.checked(client.get("/api/v1/examples", params={"limit": 2}))
        more = b'{"prompt": "New?", "completion": "New.", "label": true}'
        assert http_loop.checked(client.post("/api/v1/import", content=more))["accepted"] == 1
        pages = [first]
        while pages[-1]["next"] is not None:
            params = {"limit": 2, "cursor": pages[-1]["next"]}
            pages.append(http_loop.checked(client.get("/api/v1/examples", params=params)))
        assert [len(page["items"]) for page in pages] == [2, 2, 1]
        assert {page["snapshot"] for page in pages} == {first["snapshot"]}
        rows = [row for page in pages for row in page["items"]]
        assert rows == [row | {"tags": json.loads(row["tags"]), "share": 1.0} for row in exported]
        refused(client.get("/api/v1/examples", params={"cursor": "99999.1.1"}), 422, field="cursor")
        refused(client.get("/api/v1/examples", params={"cursor": "1"}), 422, field="cursor")
        assert "jsonl" in refused(client.get("/api/v1/export", params={"format": "xml"}), 422, field="format")


def test_weights_and_readiness_are_of_the_sources_that_train(start_server: StartServer) -> None:
    settings = {"exclude_sources": ["import:pairs"], "import_weight": 0.5, "min_votes_per_class": 4}
    with start_server(**settings).client() as client:
        rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "label": n < 9} for n in range(12)]
        pair = {"prompt": "Which?", "chosen": "This.", "rejected": "That."}
        for lines in (rows, [pair]):
            content = "\n".join(json.dumps(line) for line in lines).encode()
            http_loop.checked(client.post("/api/v1/import", content=content))
        stats = http_loop.checked(client.get("/api/v1/stats"))
        assert stats["votes"] == {"up": 10, "down": 4}
        assert stats["readiness"]["ready"] is False
        assert "9 thumbs up and 3 thumbs down" in stats["readiness"]["reason"]
        weights = stats["weights"]
        assert 9 * weights["desirable"] / (3 * weights["undesirable"]) == pytest.approx(1.32)


def test_weights_are_null_until_there_are_votes_of_both_kinds(client: httpx.Client) -> None:
    stats = http_loop.checked(client.get("/api/v1/stats"))
    assert 0 in stats["votes"].values()
    assert stats["weights"] == {"desirable": None, "undesirable": None}
    assert stats["readiness"]["ready"] is False
