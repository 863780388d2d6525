"""A server that speaks OpenAI's protocol: requests to it, and what its answers mean for us.

Knows HTTP; knows no version, no prompt and no reply. Messages name the server by its settings, never its
address or the key: whoever chats may read them.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import httpx

from app.retry_after import seconds_to_wait
from storage.errors import Busy, InvalidInput, NotReady, ThumbloopError

FAILED = "model_server_failed"  # code of what another try may mend
BUSY = "model_server_busy"  # it is well, but has no room
MISSING = "model_missing"
CONNECT_SECONDS = 5.0
# Below the 5 s after which uvicorn, and with it vLLM, closes an idle connection: ours must not be the last
# to know.
IDLE_SECONDS = 4.0
RETRY_AFTER_SECONDS = 5
SHOWN_CHARS = 300


class ModelServer:
    """Its methods belong to one event loop. They raise Busy, NotReady and InvalidInput as `refusal` says."""

    def __init__(self, base_url: str, api_key: str, silence_seconds: float) -> None:
        """`silence_seconds` is the longest wait for an answer's first byte of content, and for the next."""
        self._key = api_key
        self._silence = silence_seconds
        self._client = httpx.AsyncClient(
            base_url=f"{base_url.rstrip('/')}/",
            headers={"User-Agent": "Thumbloop"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS),
        )

    async def models(self, seconds: float) -> list[dict[str, Any]]:
        """What it serves, each with its `id`; the whole answer has to come within that time."""
        response = await self.send("GET", "models", seconds=seconds)
        if not response.is_success:
            raise self.refusal(response)
        try:
            return [model for model in response.json()["data"] if isinstance(model["id"], str)]
        except (ValueError, KeyError, TypeError) as error:
            raise NotReady(
                "The answer to GET models is no list of models: is THUMBLOOP_OPENAI_BASE_URL the address of "
                "an OpenAI-compatible API, its /v1 included?",
                code="not_openai",
            ) from error

    async def send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> httpx.Response:
        """The whole answer, whatever its status; raises Busy if none came."""
        limit = seconds or self._silence
        with _transport_errors(limit):
            async with asyncio.timeout(limit):
                return await self._client.request(method, path, json=body)

    async def chat(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a chat completion as they come. Close it early and the server hears of it.

        A stream that ends before its `finish_reason`, or with an error in it, raises as one that broke.
        """
        finished, now = False, asyncio.get_running_loop().time
        with _transport_errors(self._silence):
            async with (
                asyncio.timeout(self._silence) as patience,
                self._open(body) as response,
                aclosing(_lines(response)) as lines,
            ):
                async for line in lines:
                    if not line.startswith(b"data:"):
                        continue  # comments keep a connection alive, but are no answer
                    patience.reschedule(now() + self._silence)
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    chunk = _chunk(data)
                    if chunk.get("error"):
                        raise Busy(f"The model server failed: {self._text(chunk)}.", code=FAILED)
                    finished = finished or any(one.get("finish_reason") for one in chunk["choices"])
                    yield chunk
        if not finished:
            raise Busy("The model server ended in the middle of a reply.", code=FAILED)

    async def close(self) -> None:
        await self._client.aclose()

    def refusal(self, response: httpx.Response) -> ThumbloopError:
        """The error that an answer without success stands for. The answer was read."""
        said, status = f"{response.status_code}: {self.said(response)}", response.status_code
        if status in (401, 403):  # what it says may repeat the key
            return NotReady(
                f"The model server refuses our key ({status}); set THUMBLOOP_OPENAI_API_KEY.",
                code="model_server_key",
            )
        retry_after = math.ceil(seconds_to_wait(response.headers.get("retry-after")))
        if status == 429 or (status == 503 and retry_after):
            return Busy(
                f"The model server has too much to do ({said}).",
                retry_after=retry_after or RETRY_AFTER_SECONDS,
                code=BUSY,
            )
        if status >= 500:
            return Busy(f"The model server failed ({said}).", code=FAILED)
        if status == 404:
            return NotReady(
                f"The model server knows no such model ({said}); set THUMBLOOP_OPENAI_MODEL to one that it "
                f"lists, and THUMBLOOP_OPENAI_BASE_URL to the address of its API, /v1 included.",
                code=MISSING,
            )
        if status in (400, 413, 422):
            too_long = "context length" in said or "context_length" in response.text or status == 413
            code = "prompt_too_long" if too_long else "model_server_refused"
            return InvalidInput(f"The model server refuses the request ({said}).", code=code)
        return NotReady(
            f"The model server's answer makes no sense ({said}). Is THUMBLOOP_OPENAI_BASE_URL right?",
            code="not_openai",
        )

    def said(self, response: httpx.Response) -> str:
        """What an error says for people, in any of the shapes that servers give it."""
        try:
            return self._text(response.json())
        except ValueError:
            return self._text(response.text)

    def _text(self, body: object) -> str:
        while isinstance(body, dict):
            body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), "")
        text = " ".join(str(body).split()).rstrip(".") or "it does not say why"
        text = text.replace(self._key, "…") if self._key else text
        return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"

    @asynccontextmanager
    async def _open(self, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        request = self._client.build_request("POST", "chat/completions", json=body)
        response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                await response.aread()
                raise self.refusal(response)
            yield response
        finally:
            await response.aclose()


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # Not httpx's `aiter_lines`: it also ends a line at U+2028, which JSON may hold as it is.
    rest = b""
    async for received in response.aiter_bytes():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
        if isinstance(chunk, dict) and (chunk.get("error") or isinstance(chunk["choices"], list)):
            return chunk
    except (ValueError, KeyError):
        pass
    raise Busy("The model server sent what is no chunk of a chat completion.", code=FAILED)


@contextmanager
def _transport_errors(seconds: float) -> Iterator[None]:
    """Turns what goes wrong on the way into Busy."""
    try:
        yield
    except TimeoutError as error:
        raise Busy(
            f"The model server was silent for {seconds:g} s (openai_timeout_seconds).",
            code="model_server_silent",
        ) from error
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Busy(
            f"The model server cannot be reached ({error or 'no connection in time'}): start it, or set "
            f"THUMBLOOP_OPENAI_BASE_URL.",
            code=FAILED,
        ) from error
    except httpx.TransportError as error:
        raise Busy(
            f"The connection to the model server broke ({type(error).__name__}).", code=FAILED
        ) from error
