"""A server that speaks OpenAI's protocol: requests to it, and what its answers mean for us.

Knows HTTP; knows no version, no prompt and no reply. Messages name the server by its settings, never its
address or the key: whoever chats may read them.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx

from app.background.retry_after import seconds_to_wait
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
# For what comes after the last word of a stream: with it read, the connection serves the next request.
END_SECONDS = 0.2


@dataclass(frozen=True)
class Answer:
    """A whole answer of the server."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


class ModelServer:
    """Its methods belong to one event loop. They raise Busy, NotReady and InvalidInput as `refusal` says."""

    def __init__(self, base_url: str, api_key: str, silence_seconds: float) -> None:
        """`silence_seconds` is the longest wait for an answer's first byte of content, and for the next."""
        self._key = api_key
        self._silence = silence_seconds
        self._base_url = base_url.rstrip("/")
        self._opened: aiohttp.ClientSession | None = None

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
    ) -> Answer:
        """The whole answer, whatever its status; raises Busy if none came."""
        limit = seconds or self._silence
        with _transport_errors(limit):
            async with asyncio.timeout(limit), self._request(method, path, body) as response:
                return await _whole(response)

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
                        await _to_the_end(response)
                        return
                    chunk = _chunk(data)
                    if chunk.get("error"):
                        raise Busy(f"The model server failed: {self._text(chunk)}.", code=FAILED)
                    finished = finished or any(one.get("finish_reason") for one in chunk["choices"])
                    yield chunk
        if not finished:
            raise Busy("The model server ended in the middle of a reply.", code=FAILED)

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    def refusal(self, response: Answer) -> ThumbloopError:
        """The error that an answer without success stands for."""
        said, status = f"{response.status}: {self.said(response)}", response.status
        if status in (401, 403):  # what it says may repeat the key
            return NotReady(
                f"The model server refuses our key ({status}); set THUMBLOOP_OPENAI_API_KEY.",
                code="model_server_key",
            )
        retry_after = math.ceil(seconds_to_wait(response.headers.get("Retry-After")))
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

    def said(self, response: Answer) -> str:
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
    async def _open(self, body: dict[str, Any]) -> AsyncIterator[aiohttp.StreamReader]:
        async with self._request("POST", "chat/completions", body) as response:
            if not 200 <= response.status < 300:
                raise self.refusal(await _whole(response))
            yield response.content

    @asynccontextmanager
    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """What is not read to its end ends the connection: so the server hears that nobody listens."""
        response = await self._session().request(
            method, f"{self._base_url}/{path}", json=body, allow_redirects=False
        )
        try:
            yield response
        finally:
            if not response.content.at_eof():
                response.close()
            response.release()

    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:  # here, because it belongs to the loop that runs now
            headers = {"User-Agent": "Thumbloop"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    # With httpx's certificates: slim images have none of their own.
                    ssl=httpx.create_ssl_context() if self._base_url.startswith("https:") else True,
                    limit=0,
                    keepalive_timeout=IDLE_SECONDS,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
                trust_env=bool(getproxies()),  # where it trusts, it reads the environment at each request
            )
        return self._opened


async def _whole(response: aiohttp.ClientResponse) -> Answer:
    return Answer(response.status, response.headers, await response.read())


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    # Not the reader's own lines, which have a longest length.
    rest = b""
    async for received in content.iter_any():
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


async def _to_the_end(content: aiohttp.StreamReader) -> None:
    with suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(END_SECONDS):
            async for _ in content.iter_any():
                pass


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
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise Busy(
            f"The model server cannot be reached ({_why(error)}): start it, or set "
            f"THUMBLOOP_OPENAI_BASE_URL.",
            code=FAILED,
        ) from error
    except TimeoutError as error:
        raise Busy(
            f"The model server was silent for {seconds:g} s (openai_timeout_seconds).",
            code="model_server_silent",
        ) from error
    except aiohttp.ClientError as error:
        raise Busy(
            f"The connection to the model server broke ({type(error).__name__}).", code=FAILED
        ) from error


def _why(error: Exception) -> str:
    """Without the address, which whoever chats need not know."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return f"no connection within {CONNECT_SECONDS:g} s"
