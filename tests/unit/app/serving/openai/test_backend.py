"""Replies by an external server that answers as vLLM does."""

import logging
from threading import Thread

import pytest

from app.serving.openai.backend import ExternalBackend
from app.serving.reply import Sampling
from app.serving.scheduler import Occupancy
from storage.errors import InvalidInput, NotReady
from tests.support.external_backend import BASE, HELLO, SAMPLING, WHOLE, MakeBackend, Tokenise, failure, reply
from tests.support.live_server import wait_until
from tests.support.recorded_vllm import MODEL, WORDS, Recorded, error, recorded_vllm, status


def test_a_reply_passes_through_with_its_counts_and_ids(
    external: ExternalBackend, vllm_server: Recorded, tokenise: Tokenise
) -> None:
    stream = external.stream(BASE.id, HELLO, SAMPLING)
    assert list(stream) == [f"{MODEL}:", *WORDS]
    end = stream.end
    assert (end.content, end.finish_reason) == (WHOLE, "stop")
    assert (end.prompt_tokens, end.timings["tokens"]) == (len(tokenise(HELLO)), len(WORDS) + 1)
    assert end.token_ids == [token for word in [f"{MODEL}:", *WORDS] for token in tokenise(word)]
    assert 0 <= end.timings["queued_s"] <= end.timings["first_token_s"] <= end.timings["total_s"]
    assert external.trouble() is None


def test_the_request_says_all_that_was_asked_and_leaves_nothing_to_the_servers_defaults(
    external: ExternalBackend, vllm_server: Recorded
) -> None:
    stops = ("!", "?", "#", "$", "%")
    assert reply(external, Sampling(0.5, 0.8, 3, seed=5, stop=stops)).finish_reason == "length"
    (asked,) = vllm_server.asked
    assert asked == {
        "model": MODEL,
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_p": 0.8,
        "max_tokens": 3,
        "seed": 5,
        "stop": list(stops[:4]),  # OpenAI's limit
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "return_token_ids": True,
    }


def test_a_server_that_is_not_vllm_is_asked_in_openais_words_alone(
    make_external: MakeBackend, tokenise: Tokenise
) -> None:
    with recorded_vllm(tokenise, owner="somebody") as server:
        backend = make_external(server)
        end = reply(backend)
        assert (end.content, end.token_ids) == (WHOLE, None)
        assert not {"top_k", "return_token_ids"} & server.asked[-1].keys()


def test_ids_of_another_prompt_are_not_kept_and_the_difference_is_told(
    make_external: MakeBackend,
    tokenise: Tokenise,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with recorded_vllm(lambda said: [1, *tokenise(said)]) as server:
        backend = make_external(server)
        with caplog.at_level(logging.WARNING, "thumbloop.serving"):
            assert "Does it serve another model?" in caplog.text
        assert reply(backend).token_ids is None


def test_a_prompt_without_room_is_refused_here_and_a_long_one_shortens_the_reply(
    external: ExternalBackend, vllm_server: Recorded, tokenise: Tokenise
) -> None:
    fixed = len(tokenise([{"role": "user", "content": ""}]))

    def question(tokens: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": "\x01" * (tokens - fixed)}]  # one token each

    with pytest.raises(InvalidInput, match="512 tokens long.* at most 512") as refused:  # the server's limit
        external.stream(BASE.id, question(512), SAMPLING)
    assert refused.value.code == "prompt_too_long"
    end = external.stream(BASE.id, question(512 - 3), SAMPLING).end
    assert (end.finish_reason, end.timings["tokens"], vllm_server.asked[-1]["max_tokens"]) == ("length", 3, 3)


def test_without_the_model_here_nothing_is_counted(make_external: MakeBackend, vllm_server: Recorded) -> None:
    backend = make_external(vllm_server, local=False)
    end = reply(backend)
    assert (end.content, end.token_ids) == (WHOLE, None)
    too_long = error("This model's maximum context length is 512 tokens.", "BadRequestError", 400)
    vllm_server.script.append(status(400, too_long))
    assert failure(backend).code == "prompt_too_long"


def test_who_hangs_up_ends_the_servers_work(external: ExternalBackend, vllm_server: Recorded) -> None:
    vllm_server.script.append(vllm_server.hang_after(2))
    stream = external.stream(BASE.id, HELLO, SAMPLING)
    deltas = iter(stream)
    text = next(deltas) + next(deltas)
    stream.cancel()
    assert (stream.end.finish_reason, stream.end.content) == ("cancelled", text)
    assert vllm_server.hung_up.wait(60)


def test_a_stop_text_that_the_server_overlooks_is_found_here(
    external: ExternalBackend, vllm_server: Recorded
) -> None:
    end = reply(external, Sampling(0, 1, 24, stop=("!", "?", "#", "$", "ee fo")))
    assert (end.finish_reason, end.content) == ("stop", f"{MODEL}:One two thr")


def test_a_line_separator_within_the_text_is_no_line_end(
    external: ExternalBackend, vllm_server: Recorded
) -> None:
    words = ["one\u2028two", "\x85three\r\n"]
    vllm_server.script.append(lambda handler, body: vllm_server.complete(handler, body, words=words))
    assert reply(external).content == f"{MODEL}:{''.join(words)}"


def test_closing_ends_every_reader(make_external: MakeBackend, vllm_server: Recorded) -> None:
    backend = make_external(vllm_server, max_concurrent_replies=2)
    vllm_server.script += [vllm_server.hang_after(1)] * 2
    streams = [backend.stream(BASE.id, HELLO, SAMPLING) for _ in range(5)]
    ends: list[str] = []
    readers = [Thread(target=lambda s=one: ends.append(s.end.finish_reason)) for one in streams[:4]]  # type: ignore[misc]
    for reader in readers:
        reader.start()
    # Who begins after the end is turned away, not cancelled.
    wait_until(lambda: backend.occupancy() == Occupancy(running=2, waiting=2, admitted=5))
    backend.close()
    for reader in readers:
        reader.join()
    assert ends == ["cancelled"] * 4
    with pytest.raises(NotReady, match="stopping"):
        list(streams[4])
