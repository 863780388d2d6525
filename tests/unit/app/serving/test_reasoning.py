"""Replies with reasoning, by either backend: what their readers get, and what is kept of them."""

import re
import time
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.serving.local.scheduler import LocalReply
from app.serving.reply import Reply, ReplyStream, Request, Sampling
from storage.chats.reasoning import Reasoning
from storage.chats.reasoning_tags import THINK, Tag
from tests.support.external_backend import BASE, MakeBackend
from tests.support.recorded_vllm import Recorded, chunk

GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=64)
HELLO = [{"role": "user", "content": "2 + 2?"}]
# What the model writes, the tag by which its prompt opened the reasoning, and what becomes of it.
REPLIES: dict[str, tuple[str, Tag | None, str, str]] = {
    "none": ("4", None, "", "4"),
    "closed": ("<think>\nTwo and two.\n</think>\n\n4", None, "Two and two.", "4"),
    "opened by the prompt": ("Two and two.\n</think>\n\n4", THINK, "Two and two.", "4"),
    "cut off": ("<think>\nTwo and two", None, "Two and two", ""),
    "tags that are special tokens": ("[THINK]Two and two.[/THINK]4", None, "Two and two.", "4"),
    "channels": (
        "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>4",
        None,
        "Two and two.",
        "4",
    ),
    "nested and unfinished": ("<think>a<think>b</think>4", None, "ab", "4"),
}


def pieces(reply: Reply) -> tuple[str, str]:
    """The reasoning and the text that a reader gets."""
    found = list(reply.stream)
    thought = "".join(piece for piece in found if isinstance(piece, Reasoning))
    return thought, "".join(piece for piece in found if not isinstance(piece, Reasoning))


@pytest.mark.parametrize(("text", "opened", "thought", "said"), REPLIES.values(), ids=REPLIES)
def test_a_local_reply(tiny_model: Any, text: str, opened: Tag | None, thought: str, said: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    special = re.findall(r"<\|\w+\|>|\[/?THINK\]", text)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    stream = ReplyStream(lambda _stream: lambda: None)
    request = Request("1", "v1", "ada", HELLO, [1], GREEDY, 1000, time.perf_counter(), opened)
    reply = LocalReply(request, stream, tokenizer, frozenset([tokenizer.eos_token_id]))
    reply.begin()
    outcome = next(found for end in range(1, len(ids) + 1) if (found := reply.take(ids[:end])) is not None)
    reply.end(outcome)
    read_thought, read = pieces(reply)
    assert (read, stream.text, stream.end.content) == (said, said, said)
    assert stream.end.reasoning == thought
    assert read_thought.strip().startswith(thought)
    assert stream.end.token_ids == ids


def test_a_server_may_keep_reasoning_apart_itself(vllm_server: Recorded, make_external: MakeBackend) -> None:
    def answer(handler: Any, body: dict[str, Any]) -> None:
        handler.begin_events()
        for delta in ({"reasoning_content": "Two "}, {"reasoning": "and two."}, {"content": "4 </think>"}):
            handler.event(chunk(body["model"], delta, None))
        handler.event(chunk(body["model"], {}, "stop"))
        handler.end_events()

    args = {"enable_thinking": True}
    backend = make_external(vllm_server, template_args=args)
    vllm_server.script.append(answer)
    stream = backend.stream(BASE.id, HELLO, GREEDY)
    assert "".join(stream) == "Two and two.4 </think>"
    assert (stream.end.reasoning, stream.end.content) == ("Two and two.", "4 </think>")
    assert vllm_server.asked[-1]["chat_template_kwargs"] == args
