"""A client for a server that speaks OpenAI's protocol; turns the server's errors into ours.

Error messages never contain the server's address or key, because anyone who chats may read them.
"""

import asyncio
import html
import math
import os
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import aiohttp
import httpx2
import openai

from app.retry_after import seconds_to_wait
from storage.chats.conversation import joined_parts
from storage.errors import Busy, InvalidInput, NotReady, ThumbloopError

FAILED = "model_server_failed"  # another attempt may succeed
BUSY = "model_server_busy"  # it works, but has no capacity
MISSING = "model_missing"
CONNECT_SECONDS = 5.0
# uvicorn, and so vLLM, closes an idle connection after 5 s: ours must close first.
IDLE_SECONDS = 4.0
RETRY_AFTER_SECONDS = 5
SHOWN_CHARS = 300
TEXTS = ("content", "reasoning_content", "reasoning")  # of a delta
PAGE = re.compile(r"<html\b(?:.*?<title[^>]*>(?P<title>.*?)</title>)?", re.IGNORECASE | re.DOTALL)


class ModelServer:
    """Use it in one event loop. Its methods raise the errors of `refusal`: Busy, NotReady, InvalidInput."""

    def __init__(self, base_url: str, api_key: str, silence_seconds: float) -> None:
        """`silence_seconds` is the longest wait for the first chunk of an answer and for each next one."""
        self._key = api_key
        self._silence = silence_seconds
        # Without a key no Authorization header is sent; the client can omit it only per request.
        self._options: Any = {} if api_key else {"headers": {"Authorization": openai.Omit()}}
        timeout = openai.Timeout(None, connect=CONNECT_SECONDS)
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=0,  # ExternalReply decides: a broken stream is retried, a refusal is not
            timeout=timeout,
            default_headers={"User-Agent": "Thumbloop"},
            http_client=openai.DefaultAioHttpClient(
                timeout=timeout,
                limits=httpx2.Limits(max_connections=0, keepalive_expiry=IDLE_SECONDS),  # 0: no limit
                follow_redirects=False,
            ),
        )

    async def models(self, seconds: float) -> list[dict[str, Any]]:
        """The models it serves, each with its `id`; the complete answer must arrive within `seconds`."""
        with self._errors(seconds):
            async with asyncio.timeout(seconds):
                response = await self._client.get("/models", cast_to=httpx2.Response, options=self._options)
        try:
            return [model for model in response.json()["data"] if isinstance(model["id"], str)]
        except (ValueError, KeyError, TypeError) as error:
            raise NotReady(
                "The model server did not list its models: is THUMBLOOP_OPENAI_BASE_URL the address of an "
                "OpenAI-compatible API, its /v1 included?",
                code="not_openai",
            ) from error

    async def post(self, path: str, body: dict[str, Any], *, seconds: float | None = None) -> httpx2.Response:
        """The complete answer, whatever its status; raises Busy if none came."""
        limit = seconds or self._silence
        with self._errors(limit):
            async with asyncio.timeout(limit):
                try:
                    return await self._client.post(
                        path, cast_to=httpx2.Response, body=body, options=self._options
                    )
                except openai.APIStatusError as error:
                    return error.response

    async def chat(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a chat completion as they arrive. Closing it early cancels the server's work.

        Raises Busy (code `FAILED`) for a stream that ends without a `finish_reason` or contains an error.
        """
        finished, now = False, asyncio.get_running_loop().time
        with self._errors(self._silence):
            async with asyncio.timeout(self._silence) as limit:
                # Not `chat.completions.create`: its pydantic models take longer than everything else here.
                stream = await self._client.post(
                    "/chat/completions",
                    cast_to=object,
                    body=body,
                    options=self._options,
                    stream=True,
                    stream_cls=openai.AsyncStream[object],
                )
                async with stream:
                    await self._refuse_whole(stream.response)
                    async for sent in stream:
                        limit.reschedule(now() + self._silence)
                        chunk = _checked(sent)
                        finished = finished or any(one.get("finish_reason") for one in chunk["choices"])
                        yield chunk
        if not finished:
            raise Busy("The model server ended in the middle of a reply.", code=FAILED)

    async def close(self) -> None:
        await self._client.close()

    def refusal(self, response: httpx2.Response) -> ThumbloopError:
        """The error for an answer without a success status."""
        status = response.status_code
        reason = f"{status}: {self.reason(response)}"
        if status in (401, 403):  # the answer may repeat the key
            return NotReady(
                f"The model server refuses our key ({status}); set THUMBLOOP_OPENAI_API_KEY.",
                code="model_server_key",
            )
        retry_after = math.ceil(seconds_to_wait(response.headers.get("Retry-After")))
        if status == 429 or (status == 503 and retry_after):
            return Busy(
                "The model server is overloaded ({reason}).",
                retry_after=retry_after or RETRY_AFTER_SECONDS,
                code=BUSY,
                reason=reason,
            )
        if status >= 500:
            return Busy("The model server failed ({reason}).", code=FAILED, reason=reason)
        if status == 404:
            return NotReady(
                f"The model server has no such model ({reason}); set THUMBLOOP_OPENAI_MODEL to one that it "
                f"lists, and THUMBLOOP_OPENAI_BASE_URL to the address of its API, /v1 included.",
                code=MISSING,
            )
        if status in (400, 413, 422):
            too_long = "context length" in reason or "context_length" in response.text or status == 413
            code = "prompt_too_long" if too_long else "model_server_refused"
            return InvalidInput(f"The model server refuses the request ({reason}).", code=code)
        return NotReady(
            f"The model server's answer is not understood ({reason}). Is THUMBLOOP_OPENAI_BASE_URL right?",
            code="not_openai",
        )

    def reason(self, response: httpx2.Response) -> str:
        """The message of an error answer, in any of the shapes that servers use; of a page, its title."""
        try:
            return self._text(response.json())
        except ValueError:
            page = PAGE.search(response.text)
            return self._text(html.unescape(page["title"] or "a web page") if page else response.text)

    async def _refuse_whole(self, response: httpx2.Response) -> None:
        """Raise the error for an answer with a success status that is no stream: it has no chunks to read."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "text/html"):
            return  # the right type, or none that says anything
        await response.aread()
        with suppress(ValueError):
            body = response.json()
            if isinstance(body, dict) and body.get("error"):
                reason = self._text(body)
                raise Busy("The model server failed ({reason}).", code=FAILED, reason=reason)
        raise NotReady(
            f"The model server answered with {kind}, not with a stream: is THUMBLOOP_OPENAI_BASE_URL the "
            "address of an OpenAI-compatible API, its /v1 included, and does it stream?",
            code="not_openai",
        )

    def _text(self, body: object) -> str:
        while isinstance(body, dict):
            body = next((body[key] for key in ("error", "message", "detail") if body.get(key)), "")
        text = " ".join(str(body).split()).rstrip(".") or "it does not say why"
        text = text.replace(self._key, "…") if self._key else text
        return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"

    @contextmanager
    def _errors(self, seconds: float) -> Iterator[None]:
        """Turn the client's errors into ours."""
        try:
            yield
        except openai.APIStatusError as error:
            raise self.refusal(error.response) from error
        except (openai.APIConnectionError, httpx2.HTTPError, aiohttp.ClientError) as error:
            raise _broken(error) from error
        except openai.APIError as error:  # in the middle of a stream
            raise Busy(f"The model server failed: {self._text(error.body)}.", code=FAILED) from error
        except TimeoutError as error:
            raise Busy(
                "The model server was silent for {seconds} s.",
                code="model_server_silent",
                seconds=f"{seconds:g}",
            ) from error
        except ValueError as error:
            raise Busy("The model server's answer is not a chat completion.", code=FAILED) from error


def _checked(chunk: object) -> dict[str, Any]:
    """A chunk of a chat completion, its texts whole; raises ValueError for anything else."""
    if not isinstance(chunk, dict):
        raise ValueError("a chunk is no object")
    choices, usage = chunk.get("choices"), chunk.get("usage")
    if choices is None and usage:
        choices = []  # some servers say so in the chunk that has the usage alone
    if not isinstance(choices, list) or not isinstance(usage, dict | None):
        raise ValueError("not a chunk of a chat completion")
    return {**chunk, "choices": [_choice(choice) for choice in choices]}


def _choice(choice: Any) -> dict[str, Any]:
    if not isinstance(choice, dict) or not isinstance(delta := choice.get("delta") or {}, dict):
        raise ValueError("not a choice of a chat completion")
    texts = {name: joined_parts(delta.get(name) or "") for name in TEXTS}
    if not all(isinstance(text, str) for text in texts.values()):
        raise ValueError("the text of a choice is none")
    return {**choice, "delta": texts}


def _broken(error: BaseException) -> Busy:
    """A Busy that names the underlying aiohttp error, but never the address."""
    while not isinstance(error, aiohttp.ClientError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, aiohttp.ClientConnectorError):
        why = os.strerror(error.os_error.errno) if error.os_error.errno else "no connection"
    elif isinstance(error, aiohttp.ConnectionTimeoutError):
        why = f"no connection within {CONNECT_SECONDS:g} s"
    else:
        return Busy(f"The connection to the model server broke ({type(error).__name__}).", code=FAILED)
    return Busy(
        f"The model server cannot be reached ({why}): start it, or set THUMBLOOP_OPENAI_BASE_URL.",
        code=FAILED,
    )
