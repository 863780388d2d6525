"""Replies by an external server that fails, is silent, refuses or goes away."""

import json
from contextlib import ExitStack
from typing import Any

import pytest

from app.serving.openai.backend import ExternalBackend
from app.serving.openai.breaker import FAILURES, Breaker
from storage.errors import Busy, InvalidInput, NotReady, ThumbloopError
from tests.support.external_backend import BASE, HELLO, SAMPLING, WHOLE, MakeBackend, Tokenise, failure, reply
from tests.support.programs import free_port
from tests.support.recorded_vllm import (
    KEY,
    MODEL,
    WORDS,
    Answer,
    Recorded,
    chunk,
    cut_after,
    die_after,
    error,
    recorded_vllm,
    status,
)


@pytest.mark.parametrize("broken", [status(500, "oops"), status(502, ""), cut_after(0), die_after(0)])
def test_what_fails_before_the_first_token_is_asked_again(
    external: ExternalBackend, vllm_server: Recorded, broken: Answer
) -> None:
    vllm_server.script += [broken, broken]
    assert reply(external).content == WHOLE
    assert len(vllm_server.asked) == 3
    vllm_server.script += [broken] * 9
    assert isinstance(failed := failure(external), Busy)
    assert failed.code == "model_server_failed"
    assert len(vllm_server.asked) == 6


@pytest.mark.parametrize("broken", [cut_after(2), die_after(2)])
def test_nothing_is_asked_twice_once_a_token_came(
    external: ExternalBackend, vllm_server: Recorded, broken: Answer
) -> None:
    vllm_server.script.append(broken)
    stream = external.stream(BASE.id, HELLO, SAMPLING)
    deltas: list[str] = []
    with pytest.raises(ThumbloopError, match="ask for it again") as broke:
        deltas.extend(stream)
    assert broke.value.code == "generation_failed"
    assert deltas == WORDS[:2]
    assert len(vllm_server.asked) == 1
    assert reply(external).content == WHOLE


@pytest.mark.parametrize(
    ("answer", "kind", "code", "words"),
    [
        (status(401, {"error": f"{KEY} is wrong"}), NotReady, "model_server_key", "THUMBLOOP_OPENAI_API_KEY"),
        (
            status(404, error("No model `x`.", "NotFoundError", 404)),
            NotReady,
            "model_missing",
            "No model `x`",
        ),
        (status(429, {"error": {"message": f"for {KEY}"}}, Retry_After="7"), Busy, "model_server_busy", "…"),
        (status(503, {"detail": "full"}, Retry_After="7"), Busy, "model_server_busy", "full"),
        (status(400, {"message": "bad seed"}), InvalidInput, "model_server_refused", "bad seed"),
        (
            status(302, "", Location="http://127.0.0.1:1/"),
            NotReady,
            "not_openai",
            "THUMBLOOP_OPENAI_BASE_URL",
        ),
    ],
    ids=["key", "model", "rate", "full", "request", "redirect"],
)
def test_a_refusal_is_told_at_once_and_never_with_the_key(
    external: ExternalBackend,
    vllm_server: Recorded,
    answer: Answer,
    kind: type[ThumbloopError],
    code: str,
    words: str,
) -> None:
    vllm_server.script.append(answer)
    refused = failure(external)
    assert (type(refused), refused.code) == (kind, code)
    assert words in refused.message
    assert KEY not in refused.message
    if isinstance(refused, Busy):
        assert refused.retry_after == 7
    assert len(vllm_server.asked) == 1


def test_without_a_key_none_is_sent(make_external: MakeBackend, vllm_server: Recorded) -> None:
    with pytest.raises(NotReady, match="THUMBLOOP_OPENAI_API_KEY"):
        make_external(vllm_server, openai_api_key="")
    assert vllm_server.keys == [None]


def test_silence_is_bounded_before_the_first_token_and_after_it(
    make_external: MakeBackend, vllm_server: Recorded
) -> None:
    backend = make_external(vllm_server, openai_timeout_seconds=4)
    for answer in (vllm_server.hang, vllm_server.hang_after(0)):  # the latter only pings
        vllm_server.script.append(answer)
        assert failure(backend).code == "model_server_silent"
    vllm_server.script.append(vllm_server.hang_after(2))
    assert failure(backend).code == "generation_failed"
    assert reply(backend).content == WHOLE


def test_a_reply_may_take_longer_than_silence_may(make_external: MakeBackend, vllm_server: Recorded) -> None:
    backend = make_external(vllm_server, openai_timeout_seconds=5)
    vllm_server.script.append(vllm_server.slowly(1.2))
    end = reply(backend)
    assert end.content == WHOLE.removeprefix(f"{MODEL}:")
    assert end.timings["total_s"] > 5


def test_a_server_that_keeps_failing_is_left_alone_and_refused_without_a_trace(
    external: ExternalBackend, vllm_server: Recorded
) -> None:
    vllm_server.script += [status(500, "oops")] * FAILURES
    while vllm_server.script:
        failure(external)
    asked = len(vllm_server.asked)
    with pytest.raises(Busy, match="left alone") as refused:
        external.stream(BASE.id, HELLO, SAMPLING)
    assert 1 <= refused.value.retry_after <= 5
    assert "left alone" in (external.trouble() or "")
    assert len(vllm_server.asked) == asked


def events(*sent: Any) -> Answer:
    """A stream of these chunks."""

    def answer(handler: Any, body: dict[str, Any]) -> None:
        handler.begin_events()
        for each in sent:
            handler.event(each)
        handler.end_events()

    return answer


def test_what_is_no_completion_is_an_error(
    external: ExternalBackend, vllm_server: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    for text in ("{", "[]", '{"object": "pong"}', '{"choices": null}', '{"choices": ["One"]}'):
        vllm_server.script.append(events(chunk(MODEL, {"content": "One"}), text))
        assert failure(external).code == "generation_failed"
    for delta in ({"content": 1}, {"content": [{"type": "image_url"}]}, ["One"]):
        vllm_server.script += [events(chunk(MODEL, delta))] * 3  # type: ignore[arg-type]
        assert "is not a chat completion" in failure(external).message
        assert reply(external).content == WHOLE
    assert not [record for record in caplog.records if record.exc_info]


ONE = chunk(MODEL, {"content": "One"})
END = chunk(MODEL, {}, "stop")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            [chunk(MODEL, {"content": "One"}), END, {"choices": None, "usage": {"completion_tokens": 1}}],
            "One",
        ),
        (
            [chunk(MODEL, {"content": "One"}), END, {"choices": [], "usage": {"completion_tokens": None}}],
            "One",
        ),
        ([chunk(MODEL, {"content": [{"type": "text", "text": "One"}]}), END], "One"),
        ([chunk(MODEL, {"content": "One "}), r'{"choices": [{"delta": null, "index": 0}]}', END], "One "),
        (
            [chunk(MODEL, {"content": "a\ud83d"}), chunk(MODEL, {"content": "\ude00b\ud83d"}), END],
            "a\N{GRINNING FACE}b",
        ),
        ([chunk(MODEL, {"content": "a\ud83d"}), chunk(MODEL, {"content": "b\ude00"}), END], "a�b�"),
    ],
    ids=["no choices", "no counts", "parts", "no delta", "a character cut in two", "half a character"],
)
def test_the_ways_of_other_servers_are_understood(
    external: ExternalBackend, vllm_server: Recorded, sent: list[Any], said: str
) -> None:
    # In ASCII, as half a surrogate pair cannot be sent otherwise.
    texts = [each if isinstance(each, str) else json.dumps(each) for each in sent]
    vllm_server.script.append(events(*texts))
    end = reply(external)
    assert end.content == said
    assert end.timings["tokens"] >= 1


PAGE = "<!DOCTYPE html><html><head><title>502 Bad&nbsp;Gateway</title></head><body><h1>Oh</h1></body></html>"
COMPLETION = {"choices": [{"index": 0, "message": {"content": "One"}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (status(502, PAGE), "model_server_failed", "failed (502: 502 Bad Gateway)."),
        (status(500, "<html><body>Oh"), "model_server_failed", "failed (500: a web page)."),
        (
            status(200, PAGE, Content_Type="text/html; charset=utf-8"),
            "not_openai",
            "with text/html, not with a stream: is THUMBLOOP_OPENAI_BASE_URL",
        ),
        (status(200, COMPLETION, Content_Type="application/json"), "not_openai", "and does it stream?"),
        (
            status(200, {"error": {"message": "No credit."}}, Content_Type="application/json"),
            "model_server_failed",
            "failed (No credit).",
        ),
    ],
    ids=["page", "page without a title", "page as an answer", "whole answer", "error as an answer"],
)
def test_an_answer_that_is_no_stream_says_what_it_is(
    external: ExternalBackend, vllm_server: Recorded, answer: Answer, code: str, words: str
) -> None:
    vllm_server.script += [answer] * 3
    refused = failure(external)
    assert (refused.code, words in refused.message) == (code, True), refused.message
    vllm_server.script.clear()
    assert reply(external).content == WHOLE


def test_a_server_that_is_not_there_yet_is_waited_for(make_external: MakeBackend, tokenise: Tokenise) -> None:
    with ExitStack() as stack:
        port = free_port()
        server = stack.enter_context(recorded_vllm(tokenise, port=port))
        stack.close()
        breaker = Breaker()
        backend = make_external(server, breaker=breaker)
        trouble = backend.trouble() or ""
        assert "cannot be reached (Connection refused)" in trouble
        assert str(port) not in trouble
        assert failure(backend).code == "model_server_failed"
        stack.enter_context(recorded_vllm(tokenise, port=port))
        breaker.succeed()  # as if its pause were over
        assert reply(backend).token_ids is not None  # it was recognised as vLLM
