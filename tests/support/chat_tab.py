"""A browser's tab with the chat page, without a browser: what Gradio's client sends, and what it hears."""

import json
import re
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.fuzzed_requests import page_events

SAID = re.compile(r"I am person (\d+)")
CHAT_MESSAGES = 4


@dataclass
class ChatTab:
    """One person's tab: the page's config, its load event, then messages, four in a chat.

    Fails if it hears anything of another person's chat.
    """

    client: httpx.AsyncClient
    number: int
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_updates: list[float] = field(default_factory=list)

    async def open(self) -> None:
        (await self.client.get("/")).raise_for_status()
        config = (await self.client.get("/config")).json()
        elements = {each["id"]: each["props"].get("elem_id") for each in config["components"]}
        for event, request in zip(config["dependencies"], page_events(config), strict=True):
            names = [elements.get(target[0]) for target in event["targets"]]
            kinds = [target[1] for target in event["targets"]]
            if "load" in kinds:
                self.events["load"] = request
            elif names in (["tl-new"], ["tl-box", "tl-send"]):
                self.events[names[-1]] = request
        await self.act("load", [None, {}])

    async def send(self) -> None:
        """Send a message, at times in a new chat."""
        if len(self.first_updates) % CHAT_MESSAGES == CHAT_MESSAGES - 1:
            await self.act("tl-new", [None])
        began = time.perf_counter()
        arrivals = await self.act("tl-send", [f"I am person {self.number}", "", True, None])
        # The first drawing shows the message, the next one the first text of the reply.
        self.first_updates.append(arrivals[min(1, len(arrivals) - 1)] - began)

    async def act(self, event: str, data: list[Any]) -> list[float]:
        """When each update of an event came. A stream of its own each, as no other event is under way."""
        request = {**self.events[event], "data": data, "session_hash": f"page{self.number}"}
        joined = (await self.client.post("/gradio_api/queue/join", json=request)).raise_for_status().json()
        arrivals = []
        url = f"/gradio_api/queue/data?session_hash=page{self.number}"
        async with self.client.stream("GET", url) as response:
            async for line in response.aiter_lines():
                heard = {int(number) for number in SAID.findall(line)}
                assert heard <= {self.number}, f"page {self.number} heard of {heard}"
                if not line.startswith("data: "):
                    continue
                message = json.loads(line.removeprefix("data: "))
                if message.get("event_id") not in (None, joined["event_id"]):
                    continue
                if message["msg"] == "process_generating":
                    arrivals.append(time.perf_counter())
                elif message["msg"] == "process_completed":
                    assert message["success"], message
                    break
        return arrivals
