"""A server with OpenAI's protocol that streams words at a steady pace and computes nothing."""

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from tests.support.live_server import answers, wait_until
from tests.support.programs import free_port
from tests.support.recorded_vllm import chunk

MODEL = "steady"


@dataclass(frozen=True)
class Steady:
    """A running one: the address of its API, and its process."""

    url: str
    pid: int


@contextmanager
def steady_server(tokens: int, gap_seconds: float) -> Iterator[Steady]:
    """Each reply has so many tokens, and a gap before each; a message that is a number sets its own gap."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.steady_server", *map(str, (port, tokens, gap_seconds))]
    process = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until(lambda: answers(f"{url}/models"), 30)
        yield Steady(url, process.pid)
    finally:
        process.kill()
        process.wait()


async def list_models(_: Request) -> JSONResponse:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]})


async def complete(request: Request, *, tokens: int, gap_seconds: float) -> StreamingResponse:
    asked = (await request.json())["messages"][-1]["content"]
    gap = float(asked) if asked.isdigit() else gap_seconds

    async def events() -> AsyncIterator[str]:
        clock = asyncio.get_running_loop().time
        due = clock()
        for number in range(1, tokens + 1):
            due += gap
            await asyncio.sleep(due - clock())
            word = chunk(MODEL, {"content": " word"}, "stop" if number == tokens else None)
            yield f"data: {json.dumps(word)}\n\n"
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        yield f"data: {json.dumps({**chunk(MODEL, {}), 'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def main() -> None:
    port, tokens, gap_seconds = sys.argv[1:]
    gc.freeze()  # a collection over all that was imported takes 0.3 s, and nobody should wait for it
    answer = partial(complete, tokens=int(tokens), gap_seconds=float(gap_seconds))
    routes = [Route("/v1/models", list_models), Route("/v1/chat/completions", answer, methods=["POST"])]
    uvicorn.run(Starlette(routes=routes), port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
