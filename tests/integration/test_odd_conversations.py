"""Conversations of odd shapes: every door makes the same prompt of them, and their export comes back."""

import json
from pathlib import Path
from typing import Any

from storage.db.database import Database
from tests.support.http_loop import chat_once, checked, vote
from tests.support.live_server import LiveServer
from tests.support.odd_conversations import PROMPTS, comes_back
from tests.support.tool_calls import ROWS as TOOLED
from trainer.offline.rows import read_rows


def test_every_door_makes_the_same_prompt_and_every_export_comes_back(
    shared_server: LiveServer, store: Database, tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    rated = [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": "A reply."}], "label": True}
        for prompt in PROMPTS
    ]
    file.write_text("\n".join(map(json.dumps, rated)))
    with shared_server.client("admin") as client:
        for prompt in PROMPTS:
            asked = {"model": "deployed", "messages": prompt, "max_tokens": 4}
            vote(client, checked(client.post("/v1/chat/completions", json=asked))["id"], True)
            items = [*prompt[:-1], {"role": "user", "content": f"{prompt[-1]['content']} Again."}]
            answered = {"model": "deployed", "input": items, "max_output_tokens": 4}
            vote(client, checked(client.post("/v1/responses", json=answered))["id"], False)
        checked(client.post("/api/v1/import", content=file.read_bytes()))
        others = [row | {"completion": "Another reply.", "label": False} for row in rated]
        checked(client.post("/api/v1/import", content="\n".join(map(json.dumps, others))))
        for number, system in enumerate(["", " ", "Brief."]):
            chat = checked(client.post("/api/v1/chats", json={"system_prompt": system}))
            vote(client, chat_once(client, f"Question {number}?", chat["id"])["message_id"], False)
            chat_once(client, f"Question {number}, once more?", chat["id"])
            checked(client.put(f"/api/v1/chats/{chat['id']}/vote", json={"label": True}))

        def prompts(source: str) -> list[Any]:
            answer = client.get("/api/v1/export", params={"source": source, "label": "up"})
            return [json.loads(line)["prompt"] for line in answer.text.split("\n")[:-1]]

        assert prompts("import:kto") == prompts("openai")
        assert prompts("openai") == [example.prompt for example in read_rows(file).examples]
        for record in TOOLED:
            checked(client.post("/api/v1/import", content=json.dumps(record)))
    for shape in ("kto", "pairs", "sharegpt", "swift"):
        comes_back(store, tmp_path, shape)
