"""OpenAI-compatible servers that write replies or judge them.

Faults of a server are retried with back-off by OpenAI's client library; each is counted by its kind.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx2
import openai

from storage.errors import NotReady, ThumbloopError
from trainer.judge.specs import ServerSpec

Message = Mapping[str, str]
RETRIES = 6  # with back-off up to 8 s between two attempts, or as long as the server says
UNREACHED_RETRIES = 2  # until the server has answered anything: a wrong address is soon known
SHOWN_CHARS, NOT_FOUND, TOO_MANY_REQUESTS = 300, 404, 429
# A server that answers nothing this often in a row is not asked on: it is away, or refuses the key.
IN_A_ROW = 10


class NoAnswer(ThumbloopError):
    """A server gave no usable answer, however often it was asked."""


def away(server: str, failed: int, last: NoAnswer) -> NotReady:
    """That a server is not asked on; `failed` is how often in a row it gave no answer."""
    often = f" {failed} times in a row" if failed >= IN_A_ROW else ""
    reason = last.message if last.message.endswith("?") else f"{last.message.rstrip('.')}."
    message = f"{server} gave no answer{often}: {reason} The same command continues."
    return NotReady(message, code="server_away")


@dataclass(frozen=True)
class Answer:
    """A server's answer. `finished` means that the model ended it, not the token limit."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Used:
    """What a server was asked and what went wrong: faults by kind, retried ones included."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Server:
    """An asynchronous context manager; use it in one event loop."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.used = Used()
        self._schema_refused = False
        self._http = _Counting(self.used.faults, timeout=spec.timeout, follow_redirects=False)
        self._client = openai.AsyncOpenAI(
            base_url=spec.url,
            api_key=spec.key or "none",
            max_retries=RETRIES,
            timeout=spec.timeout,
            default_headers={"User-Agent": "Thumbloop"},
            http_client=self._http,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def ask(
        self,
        messages: Sequence[Message],
        *,
        schema: dict[str, Any] | None = None,
        seed: int | None = None,
        **more: Any,
    ) -> Answer:
        """The model's reply to a conversation; `schema` asks for JSON of that form, where the server can.

        Raises NoAnswer, with the reason, once the retries are used up or the server refuses.
        """
        spec = self.spec
        sampling = {"temperature": spec.temperature, "top_p": spec.top_p, "max_tokens": spec.max_tokens}
        body = {name: value for name, value in sampling.items() if value is not None} | more
        if spec.own:
            body["store"] = False
        if spec.seed is not None or seed is not None:
            body["seed"] = (spec.seed or 0) + (seed or 0)
        asked = {"model": spec.model, "messages": list(messages), **body}
        if schema is not None and not self._schema_refused:
            try:
                return await self._ask({**asked, "response_format": _as_format(schema)})
            except Refused as error:
                answer = await self._ask(asked)  # if this is refused too, the format was not the reason
                self._schema_refused = True
                self.used.faults["structured output refused"] += 1
                del error
                return answer
        return await self._ask(asked)

    async def _ask(self, body: dict[str, Any]) -> Answer:
        self.used.calls += 1
        try:
            found = await self._post(body)
        except openai.APIStatusError as error:
            refused = error.status_code in (400, 422)
            raise (Refused if refused else NoAnswer)(self._reason(error)) from error
        except openai.APITimeoutError as error:
            raise NoAnswer(f"no answer within {self.spec.timeout:g} s") from error
        except (openai.OpenAIError, ValueError) as error:
            if not self._http.reached:
                asked = "is the address right, and does the server run?"
                raise NoAnswer(f"no connection ({_cause(error)}): {asked}") from error
            raise NoAnswer(f"the connection broke ({_cause(error)})") from error
        try:
            choice = found["choices"][0]
            text = choice["message"].get("content") or ""
            usage = found.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            self.used.faults["no completion"] += 1
            raise NoAnswer("the answer is no chat completion: does the address end in /v1?") from error
        self.used.prompt_tokens += counts[0]
        self.used.completion_tokens += counts[1]
        clean = str(text).encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be stored
        return Answer(clean, choice.get("finish_reason") == "stop", *counts)

    async def _post(self, body: dict[str, Any]) -> Any:
        if self._http.reached:
            return await self._attempt(body, RETRIES)
        try:
            return await self._attempt(body, UNREACHED_RETRIES)
        except openai.APIError as error:
            status = getattr(error, "status_code", None)
            final = status is not None and status < TOO_MANY_REQUESTS
            if final or not self._http.reached:
                raise
        return await self._attempt(body, RETRIES - UNREACHED_RETRIES - 1)  # it is there, and busy

    async def _attempt(self, body: dict[str, Any], retries: int) -> Any:
        # Not `chat.completions.create`: what it returns need not be a completion.
        options: Any = {"max_retries": retries}
        return await self._client.post("/chat/completions", cast_to=object, body=body, options=options)

    def _reason(self, error: openai.APIStatusError) -> str:
        """The status and the server's words, without the key, which an answer may repeat."""
        if error.status_code in (401, 403):
            return f"{error.status_code}: it refuses the key; give another one"
        text = error.response.text
        try:
            found = json.loads(text)
            text = found["error"]["message"] if isinstance(found.get("error"), dict) else text
        except (ValueError, KeyError, AttributeError, TypeError):
            pass
        text = str(text).replace(self.spec.key, "…") if self.spec.key else str(text)
        shown = f"{error.status_code}: {' '.join(text.split())[:SHOWN_CHARS]}"
        if error.status_code == NOT_FOUND:
            shown += " (are the address, which ends in /v1, and the model right?)"
        return shown


class Refused(NoAnswer):
    """The server does not take the request as it is."""


class _Counting(openai.DefaultAioHttpClient):
    """Counts the attempts that failed; the client library around it tries again.

    `reached` is whether the server has answered anything.
    """

    def __init__(self, faults: Counter[str], **options: Any) -> None:
        super().__init__(**options)
        self._faults = faults
        self.reached = False

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
        except httpx2.TimeoutException as error:
            if isinstance(error.__cause__, aiohttp.ClientConnectorError):  # refused at once, or no such host
                self._faults["no connection"] += 1
                raise httpx2.ConnectError(str(error.__cause__), request=request) from error
            self._faults["timeout"] += 1
            raise
        except httpx2.TransportError:
            self._faults["broken connection"] += 1
            raise
        self.reached = True
        if response.status_code >= 400:
            self._faults[str(response.status_code)] += 1
        return response


def _as_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def _cause(error: Exception) -> str:
    return str(error.__cause__ or error) or type(error).__name__
