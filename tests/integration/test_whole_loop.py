"""The main job: chats, votes, a run, a gate, and the next reply comes from the new version."""

import json
from pathlib import Path

import datasets
import pytest

from storage.settings.serving import DEFAULT_MODEL
from tests.support import http_loop
from tests.support.default_model import ConvertedDefault
from tests.support.live_server import StartServer
from tests.support.training_env import LENIENT


def test_votes_become_a_version_that_answers_the_next_message(
    start_server: StartServer, tmp_path: Path
) -> None:
    # A random model cannot learn what its votes mean: the gate's tolerance lets any sound result pass.
    server = start_server(executor="local", gate_min_votes=2, **LENIENT)
    admin, person = server.client(), server.client("user", "ada")
    replies = http_loop.chat_and_vote(person, 18)
    assert {reply["model_version"] for reply in replies} == {"v1"}

    run_id = http_loop.request_run(admin)
    run = http_loop.wait_for_run(server, admin, run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    assert run["model_version"] == "v2"
    assert run["metrics"]["outcome"] == "pass"
    assert http_loop.deployed(admin) == "v2"

    assert http_loop.chat_once(person, "And now?")["model_version"] == "v2"
    assert http_loop.chat_once(person, "Go on.", replies[0]["chat_id"])["model_version"] == "v2"

    export = admin.get("/api/v1/export", params={"format": "jsonl"})
    assert int(export.headers["X-Thumbloop-Snapshot"]) == len(replies)
    file = tmp_path / "export.jsonl"
    file.write_bytes(export.content)
    rows = datasets.load_dataset(
        "json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache")
    )
    # A random model at times ends a reply before its first word, and an empty one cannot be trained on.
    answered = [reply for reply in replies if reply["content"]]
    assert len(answered) > len(replies) // 2
    assert {(row["message_id"], row["label"]) for row in rows} == {
        (reply["message_id"], reply["label"]) for reply in answered
    }
    assert {row["completion"][0]["content"] for row in rows} == {reply["content"] for reply in answered}

    adapter = server.settings.data_dir / "adapters" / run_id
    lineage = json.loads((adapter / "lineage.json").read_text())
    assert set(lineage["message_ids"]) <= {reply["message_id"] for reply in replies}
    assert http_loop.checked(admin.post("/api/v1/rollback"))["name"] == "v1"
    assert http_loop.chat_once(person, "And back?")["model_version"] == "v1"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_default_model_learns_from_real_feedback(
    start_server: StartServer,
    kto_sample: Path,
    converted_default: ConvertedDefault,
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "learning"
    converted_default.put_into(data_dir)
    server = start_server(
        data_dir=data_dir, model=DEFAULT_MODEL, precision="auto", learning_rate=5e-5, max_length=128
    )
    admin = server.client()
    shortest = sorted(kto_sample.read_bytes().splitlines(keepends=True), key=len)  # a row costs its tokens
    kinds = [[line for line in shortest if json.loads(line)["label"] is label] for label in (True, False)]
    lines = [*kinds[0][:12], *kinds[1][:12]]
    report = http_loop.checked(admin.post("/api/v1/import", content=b"".join(lines)))
    assert report["accepted"] == 24

    run_id = http_loop.request_run(admin)
    run = http_loop.wait_for_run(server, admin, run_id, seconds=1200)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    assert run["metrics"]["outcome"] in ("pass", "fail"), run
    versions = http_loop.checked(admin.get("/api/v1/model-versions"))["items"]
    assert [version["name"] for version in versions] == ["v2", "v1"]
    expected = "v2" if run["metrics"]["outcome"] == "pass" else "v1"
    reply = http_loop.chat_once(admin, "What is the capital of France?")
    assert reply["model_version"] == expected
    assert reply["content"].strip()  # what it says is sampled
