"""From a message to a saved reply, through real storage and a tiny real model."""

import dataclasses
import threading
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool
from transformers import AutoTokenizer

from app.chat.live_reply import LiveReply
from app.serving.reply import Sampling
from storage.chats import chats, votes
from storage.chats.reasoning import Parts
from storage.errors import (
    Busy,
    Conflict,
    InvalidInput,
    NotAllowed,
    NotFound,
    ThumbloopError,
    TooLarge,
    TooOften,
)
from storage.examples.example import Examples
from storage.privacy.consent import delete_chat
from storage.registry import model_versions
from tests.support.adapters import publish_adapter
from tests.support.chat_env import LONG, SHORT, ChatEnv, MakeEnv
from tests.support.endless_model import CONTEXT, FATAL
from tests.support.live_server import at_once, wait_until
from trainer.dataset.template import prompt_ids


def test_a_reply_is_streamed_and_stored_with_everything_that_made_it(
    env: ChatEnv, endless_model: Path
) -> None:
    live = env.send("What is a river?")
    text = "".join(live)
    question, reply = env.path()
    assert (question.id, question.role, question.content) == (
        live.user_message_id,
        "user",
        "What is a river?",
    )
    assert reply.parent_id == question.id
    assert reply.content == text != ""
    assert (reply.state, reply.finish_reason, live.model_version) == ("complete", "length", "v1")
    assert reply.sampling is not None
    assert reply.sampling["max_new_tokens"] == 12
    assert isinstance(reply.sampling["seed"], int)
    assert reply.token_ids is not None
    assert reply.timings is not None
    assert len(reply.token_ids) == reply.timings["tokens"] == 12
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a river?"}]
    assert reply.timings["prompt_tokens"] == len(
        prompt_ids(AutoTokenizer.from_pretrained(endless_model), prompt)
    )
    assert live.message() == reply
    assert "".join(live) == text  # a later reader gets it all
    with env.database.read() as session:
        assert model_versions.get_version(session, str(reply.model_version_id)).name == "v1"


def test_the_whole_branch_is_the_prompt(env: ChatEnv, endless_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(endless_model)
    first = env.send("One").message()
    env.send("Two").message()
    branch = env.send("Two, differently", parent_id=first.id).message()
    path = env.path()
    assert [m.content for m in path] == ["One", first.content, "Two, differently", branch.content]
    prompt = [{"role": "system", "content": "Be brief."}]
    prompt += [{"role": m.role, "content": m.content} for m in path[:-1]]
    assert branch.timings is not None
    assert branch.timings["prompt_tokens"] == len(prompt_ids(tokenizer, prompt))


def test_of_a_long_chat_the_model_reads_the_latest_turns_and_so_does_training(
    make_env: MakeEnv, endless_model: Path
) -> None:
    env = make_env(serving_cache_tokens=256)
    tokenizer = AutoTokenizer.from_pretrained(endless_model)
    replies = [env.send(f"Question {turn}?").message() for turn in range(12)]
    left_out = [reply.messages_left_out for reply in replies]
    assert left_out[0] == 0 < left_out[-1]
    assert left_out == sorted(left_out)
    again = env.regenerate(replies[-1].id)
    assert again.messages_left_out == left_out[-1]

    with env.database.write() as session:
        for reply in replies:
            votes.cast_vote(session, user_id=env.user_id, message_id=reply.id, label=True)
    with env.database.read() as session:
        examples = {example.message_id: example for example in Examples(session, 12).iterate()}
    system = {"role": "system", "content": "Be brief."}
    before = [{"role": m.role, "content": m.content} for m in env.path()]
    for turn, reply in enumerate(replies):
        prompt = examples[reply.id].prompt
        assert prompt == [system, *before[left_out[turn] : 2 * turn + 1]]
        assert reply.timings is not None
        assert reply.timings["prompt_tokens"] == len(prompt_ids(tokenizer, prompt)) < 256

    with pytest.raises(InvalidInput, match="256") as refused:
        env.service.send(env.user_id, env.chat_id, "Whole?", shorten=False)
    assert refused.value.code == "prompt_too_long"
    with pytest.raises(InvalidInput, match="256") as refused:  # a question alone
        env.service.send(env.user_id, env.chat_id, "word " * 300)
    assert refused.value.code == "prompt_too_long"
    assert len(env.path()) == 24


def test_regenerating_makes_a_sibling_and_the_stored_seed_repeats_it(env: ChatEnv) -> None:
    first = env.send("One").message()
    other = env.regenerate(first.id)
    assert first.sampling is not None
    again = Sampling(**{**first.sampling, "stop": tuple(first.sampling["stop"])})
    same = env.service.regenerate(env.user_id, first.id, sampling=again).message()
    with env.database.read() as session:
        places = chats.current_places(session, env.chat_id)
    assert places[-1].alternatives == [first.id, other.id, same.id]
    assert same.content == first.content != other.content
    assert same.token_ids == first.token_ids
    assert env.path()[-1].id == same.id


def test_a_reply_is_saved_though_nobody_reads(env: ChatEnv) -> None:
    live = env.send()
    wait_until(lambda: env.stored(live.message_id).state == "complete", 30)
    assert env.stored(live.message_id).content
    assert env.service.live(live.message()) is None


@pytest.mark.both_engines
def test_a_reply_that_another_server_ended_says_so(env: ChatEnv) -> None:
    """As after a pause so long that its lease ran out."""
    live = env.service.send(env.user_id, env.chat_id, "Hello", sampling=LONG)
    wait_until(lambda: live.text)
    with env.database.write() as session:
        chats.renew_replies(session, {live.message_id: Parts("", "So far")})
        assert chats.recover_interrupted(session, all_servers=True) == 1
    with pytest.raises(Conflict, match="another one ended it") as lost:
        "".join(live)
    assert lost.value.code == "reply_interrupted"
    assert env.stored(live.message_id).content == "So far"
    assert env.service.send(env.user_id, env.chat_id, "And?", sampling=SHORT).message().content


def test_a_reply_is_found_as_soon_as_it_is_stored(env: ChatEnv) -> None:
    stored, goes_on, looking = threading.Event(), threading.Event(), threading.Lock()

    def hold(*_: object) -> None:
        """After its commit, the connection that stored the reply is not given back."""
        if threading.current_thread() is threading.main_thread() or not looking.acquire(blocking=False):
            return
        try:
            path = env.path()  # gives back a connection of its own
        finally:
            looking.release()
        if path and path[-1].state == "streaming":
            stored.set()
            goes_on.wait(60)

    event.listen(Pool, "checkin", hold)
    try:
        sending = threading.Thread(target=env.service.send, args=(env.user_id, env.chat_id, "Hello"))
        sending.start()
        assert stored.wait(60)
        reply = env.path()[-1]
        threading.Timer(0.2, goes_on.set).start()  # were it sooner than the question, little would be tested
        live = env.service.live(reply)
        sending.join()
    finally:
        goes_on.set()
        event.remove(Pool, "checkin", hold)
    assert live is not None
    live.cancel()
    assert live.message().id == reply.id
    assert env.service.live(reply) is None


def test_the_last_reader_to_leave_stops_the_reply_and_the_text_is_kept(env: ChatEnv) -> None:
    live = env.send(sampling=LONG)
    one, two = iter(live), iter(live)
    text = next(one)
    assert next(two) == text
    one.close()  # type: ignore[attr-defined]
    assert next(two)
    two.close()  # type: ignore[attr-defined]
    reply = live.message()
    assert (reply.state, reply.finish_reason) == ("stopped", "cancelled")
    assert reply.content.startswith(text)
    assert len(reply.token_ids or []) < CONTEXT - 100


def test_cancel_from_another_request(env: ChatEnv) -> None:
    live = env.send(sampling=LONG)
    assert [(m.id, m.state) for m in env.path()] == [
        (live.user_message_id, "complete"),
        (live.message_id, "streaming"),
    ]
    stranger = env.new_person()
    with pytest.raises(NotAllowed):
        env.service.cancel(live.message_id, stranger)
    text = ""
    for delta in live:
        if not text:
            assert env.service.cancel(live.message_id, env.user_id)
        text += delta
    reply = env.stored(live.message_id)
    assert (reply.state, reply.finish_reason, reply.content) == ("stopped", "cancelled", text)
    assert not env.service.cancel(live.message_id, env.user_id)
    with pytest.raises(NotFound):
        env.service.cancel("nothing", env.user_id)


@pytest.mark.both_engines
def test_a_reply_ends_where_its_chat_was_deleted(env: ChatEnv) -> None:
    live = env.send(sampling=LONG)
    with env.database.write() as session:
        delete_chat(session, env.chat_id)
    assert live.message().state == "stopped"


def test_one_reply_at_a_time_in_a_chat_and_several_in_several(env: ChatEnv) -> None:
    live = env.send(sampling=LONG)
    with pytest.raises(Conflict) as refused:
        env.service.send(env.user_id, env.chat_id, "And?")
    assert refused.value.code == "reply_streaming"
    with pytest.raises(Conflict):
        env.service.regenerate(env.user_id, live.message_id)
    other = env.service.send(env.user_id, env.new_chat(), "Hello", sampling=SHORT)
    assert other.message().state == "complete"
    live.cancel()
    assert live.message().state == "stopped"
    assert env.send("And?").message().content


@pytest.mark.both_engines
def test_of_many_sends_at_the_same_moment_one_is_taken(env: ChatEnv) -> None:
    def send(_: int) -> LiveReply | str:
        try:
            return env.send(sampling=LONG)
        except Conflict as error:
            return error.code

    (taken,) = [one for one in at_once(6, send) if isinstance(one, LiveReply)]
    assert len(env.path()) == 2
    taken.cancel()


def test_a_refused_message_leaves_no_trace(make_env: MakeEnv) -> None:
    env = make_env(max_concurrent_replies=1, max_waiting_replies=0, max_message_chars=CONTEXT + 10)

    def send(content: str) -> None:
        env.service.send(env.user_id, env.chat_id, content, sampling=SHORT)

    for content, error, match in (
        ("", InvalidInput, "is empty"),
        (" \n\t", InvalidInput, "is empty"),
        ("a\x00b", InvalidInput, "NUL"),
        ("a\ud800b", InvalidInput, "surrogate"),
        ("x" * (CONTEXT + 11), TooLarge, f"{CONTEXT + 11} characters; at most {CONTEXT + 10}"),
        ("\x01" * CONTEXT, InvalidInput, "tokens long"),
    ):
        with pytest.raises(error, match=match) as refused:
            send(content)
        assert refused.value.field == "content"
    elsewhere = env.service.send(env.user_id, env.new_chat(), "Hello", sampling=LONG)
    with pytest.raises(Busy):
        send("Hello")
    assert env.path() == []
    with env.database.read() as session:
        assert chats.get_chat(session, env.chat_id).title == ""
    elsewhere.cancel()
    assert elsewhere.message().state == "stopped"
    send("Hello")
    assert len(env.path()) == 2


def test_wrong_places_are_refused(env: ChatEnv) -> None:
    live = env.send()
    live.message()
    stranger = env.new_person()
    with pytest.raises(NotAllowed):
        env.service.send(stranger, env.chat_id, "Hello")
    with pytest.raises(NotAllowed):
        env.service.regenerate(stranger, live.message_id)
    with pytest.raises(InvalidInput, match="is not of chat"):
        env.service.send(stranger, env.new_chat(stranger), "Hello", parent_id=live.message_id)
    with pytest.raises(Conflict):
        env.service.send(env.user_id, env.chat_id, "Hello", parent_id=live.user_message_id)
    with pytest.raises(NotFound):
        env.service.send(env.user_id, "no-such-chat", "Hello")
    with pytest.raises(NotFound):
        env.service.regenerate(env.user_id, "no-such-message")
    assert len(env.path()) == 2


def test_a_model_that_fails_leaves_a_failed_reply_and_a_usable_chat(env: ChatEnv) -> None:
    live = env.send(FATAL)
    for read in (lambda: list(live), live.message):
        with pytest.raises(ThumbloopError, match="index out of range") as failure:
            read()
        assert failure.value.code == "generation_failed"
    reply = env.stored(live.message_id)
    assert (reply.state, reply.finish_reason, reply.content) == ("failed", "error", "")
    with pytest.raises(ThumbloopError):
        env.regenerate(live.message_id)


def test_a_new_version_takes_over_between_two_replies(env: ChatEnv, endless_model: Path) -> None:
    live = env.send()
    publish_adapter(env.database, env.artifacts, endless_model)
    env.deployments.deploy("v2", by="ada", why="better")
    first = live.message()
    second = env.send("And now?")
    assert (live.model_version, second.model_version) == ("v1", "v2")
    assert first.model_version_id != second.message().model_version_id
    assert first.state == "complete"


def test_closing_saves_what_is_under_way(env: ChatEnv) -> None:
    replies = [env.service.send(env.user_id, env.new_chat(), "Hello", sampling=LONG) for _ in range(3)]
    env.service.close()
    assert {env.stored(live.message_id).state for live in replies} == {"stopped"}
    with pytest.raises(Busy, match="stopping"):
        env.service.send(env.user_id, env.chat_id, "Hello")


def test_the_settings_bound_what_is_asked_for(make_env: MakeEnv) -> None:
    env = make_env(max_new_tokens=5, temperature=0.0)
    assert dataclasses.asdict(env.service.default_sampling())["temperature"] == 0
    reply = env.send(sampling=LONG).message()
    assert len(reply.token_ids or []) == 5


def test_a_person_who_asks_too_often_waits_and_others_do_not(make_env: MakeEnv) -> None:
    env = make_env(max_replies_per_minute=2)
    service, other = env.service, env.new_person()
    first = service.send(env.user_id, env.chat_id, "Hello", sampling=SHORT).message()
    service.regenerate(env.user_id, first.id, sampling=SHORT).message()
    before = [message.id for message in env.path()]
    for _ in range(2):
        with pytest.raises(TooOften, match="2 replies a minute") as caught:
            service.send(env.user_id, env.chat_id, "Again", sampling=SHORT)
        assert 0 < caught.value.retry_after <= 60
    assert [message.id for message in env.path()] == before
    service.send(other, env.new_chat(other), "Hello", sampling=SHORT).message()
