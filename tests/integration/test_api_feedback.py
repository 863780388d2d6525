"""Feedback over HTTP: formats, filters, figures and erasure."""

import hashlib
import io
import json
from pathlib import Path

import httpx
import pyarrow.parquet as pq

from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.rest import refused


def test_a_preview_shows_the_first_rows_and_stores_nothing(client: httpx.Client) -> None:
    more = {"ok": "good", "note": "x", "finish_reason": "length"}
    rows = [{"q": f"Who {n}?", "a": "[THINK]Hm.[/THINK]I", **more} for n in range(7)]
    content = "\n".join(map(json.dumps, [*rows, {"q": "?"}]))
    params = {"columns": "prompt=q,reply=a,label=ok"}
    found = http_loop.checked(client.post("/api/v1/import/preview", params=params, content=content))
    assert len(found["rows"]) == 5
    assert found["rows"][0] | {"comment": None} == {
        "position": "line 1",
        "prompt": [{"role": "user", "content": "Who 0?", "reasoning": ""}],
        "reply": "I",
        "reasoning": "Hm.",
        "cut": True,
        "label": True,
        "tags": [],
        "comment": None,
        "correction": None,
        "model": None,
    }
    assert (found["format"], found["up"], found["down"], found["rejected_records"]) == ("kto", 7, 0, 1)
    assert "There is no column 'a', which columns names" in found["rejected"][0]["reason"]
    assert found["left_out"] == {"note": 7}
    saved = http_loop.checked(client.post("/api/v1/import/columns", json={"name": "mine", **params}))
    assert [saved] == http_loop.checked(client.get("/api/v1/import/columns"))["items"]
    again = client.post("/api/v1/import/preview", params={"columns": "mine"}, content=content)
    assert http_loop.checked(again) == found
    message = refused(client.post("/api/v1/import", params={"columns": "yours"}, content=content), 422)
    assert "There is no map of columns 'yours'. There are mine." in message
    assert client.delete("/api/v1/import/columns/mine").status_code == 204
    report = http_loop.checked(
        client.post("/api/v1/import", params=params, content=content.rpartition("\n")[0])
    )
    assert (report["accepted"], report["duplicates"], report["left_out"]) == (7, 0, {"note": 7})


def test_formats_and_filters(live_server: LiveServer, pairs_sample: Path) -> None:
    with live_server.client() as client:
        import_path, export_path = "/api/v1/import", "/api/v1/export"
        options = {"format": "pairs", "max_messages": 2}
        report = http_loop.checked(
            client.post(import_path, params=options, content=pairs_sample.read_bytes())
        )
        assert report["accepted"] > 0
        assert report["rejected"] == []
        assert report["dropped"]["more than 2 messages"] > 0

        ups = client.get(export_path, params={"format": "parquet", "label": "up"})
        table = pq.read_table(io.BytesIO(ups.content))
        assert set(table["label"].to_pylist()) == {True}
        downs = client.get(export_path, params={"label": "down", "shape": "kto-text"})
        assert table.num_rows + len(downs.text.splitlines()) == report["accepted"]
        assert ups.headers["x-thumbloop-snapshot"] == downs.headers["x-thumbloop-snapshot"]
        again = client.post(import_path, files={"file": ("ups.parquet", ups.content)})
        assert http_loop.checked(again)["accepted"] == 0
        pairs = client.get(export_path, params={"format": "csv", "shape": "pairs"})
        assert pairs.headers["content-type"] == "text/csv; charset=utf-8"

        # As of then, whatever comes later; and without personal data.
        then = client.get(export_path)
        snapshot = {"snapshot": then.headers["x-thumbloop-snapshot"]}
        rated = {"prompt": "Who?", "completion": "Write to ada@mail.internal.", "label": True}
        assert http_loop.checked(client.post(import_path, content=json.dumps(rated)))["accepted"] == 1
        assert client.get(export_path, params=snapshot).content == then.content
        manifest = http_loop.checked(client.get(f"{export_path}/manifest", params=snapshot))
        assert manifest["sha256"] == hashlib.sha256(then.content).hexdigest()
        assert (manifest["bytes"], manifest["rows"]) == (len(then.content), len(then.text.splitlines()))
        assert manifest["snapshot_event_id"] == int(snapshot["snapshot"])
        newest = client.get(export_path).content.splitlines()[-1]
        assert json.loads(newest)["completion"][0]["content"] == rated["completion"]
        redacted = client.get(export_path, params={"redact": True}).content.splitlines()[-1]
        assert json.loads(redacted)["completion"][0]["content"] == "Write to <EMAIL_ADDRESS_1>."
        for unknown in (10**6, "x"):
            refused(client.get(export_path, params={"snapshot": unknown}), 422, field="snapshot")
        refused(client.get(export_path, params={"signals": "smelled"}), 422)
        refused(client.get(export_path, params={"signals": "copied", "shape": "pairs"}), 422, field="signals")

        examples = http_loop.checked(client.get("/api/v1/examples", params={"label": "down", "limit": 3}))
        assert [row["label"] for row in examples["items"]] == [False] * 3
        for path in (export_path, "/api/v1/examples"):
            assert "colour" in refused(client.get(path, params={"colour": "red"}), 422, field="colour")
            refused(client.get(path, params={"label": "sideways"}), 422, field="label")
            refused(client.get(path, params={"model_version": "v9"}), 404)
            assert "date" in refused(client.get(path, params={"to_date": "31.1.2026"}), 422, field="to_date")
        refused(client.post(import_path, params={"colour": "red"}, content=b""), 422, field="colour")
        refused(client.post(import_path, params={"format": "xml"}, content=b"{}"), 422, field="format")


def test_figures_and_erasure(live_server: LiveServer) -> None:
    with live_server.client() as admin, live_server.client("user", "ada") as ada:
        reply = http_loop.chat_once(ada, "Hello")
        vote = {"label": False, "tags": ["wrong"]}
        http_loop.checked(ada.put(f"/api/v1/messages/{reply['message_id']}/vote", json=vote))
        stats = http_loop.checked(admin.get("/api/v1/stats"))
        (version,) = stats["approval"]
        assert (version["version"], version["replies"], version["up"], version["down"]) == ("v1", 1, 0, 1)
        assert (version["approval"], version["vote_rate"], version["enough_votes"]) == (0, 1, False)
        assert 0 <= version["low"] <= version["high"] < 1
        assert stats["tags"] == {"wrong": {"up": 0, "down": 1}}
        assert len(stats["days"]) == 30
        assert stats["days"][-1]["down"] == 1

        person = http_loop.checked(ada.get("/api/v1/me"))["id"]
        refused(ada.delete(f"/api/v1/users/{person}/data"), 403)
        report = http_loop.checked(admin.delete(f"/api/v1/users/{person}/data"))
        assert report == {"chats": 1, "messages": 2, "votes": 1, "signals": 0, "affected_versions": []}
        refused(ada.get("/api/v1/me"), 401)
        refused(admin.delete(f"/api/v1/users/{person}/data"), 409)
        rows = admin.get("/api/v1/export").text.splitlines()
        counted = http_loop.checked(admin.get("/api/v1/export/count"))
        assert counted == {"rows": len(rows), "complete": True}
        assert [json.loads(row) for row in rows] == []


def test_ratings_of_a_judge_are_counted_apart(client: httpx.Client) -> None:
    def judged() -> dict[str, int]:
        found: dict[str, int] = http_loop.checked(client.get("/api/v1/stats"))["judged"]
        return found

    before = judged()
    rows = [
        {"prompt": "Rated?", "completion": f"Reply {number}", "label": number > 0, "judged_by": "j"}
        for number in range(3)
    ]
    body = "\n".join(json.dumps(row) for row in rows).encode()
    assert http_loop.checked(client.post("/api/v1/import", content=body))["accepted"] == 3
    assert judged() == {"up": before["up"] + 2, "down": before["down"] + 1}
