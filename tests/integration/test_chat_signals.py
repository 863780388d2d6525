"""What the chat service notes of replies that were not good enough, and replies whose person is erased."""

import pytest
from sqlmodel import col, select

from storage.chats import chats
from storage.db.tables import Signal
from storage.errors import InvalidInput, NotFound
from storage.privacy import erasure
from tests.support.chat_env import LONG, SHORT, ChatEnv


def noted(env: ChatEnv) -> list[tuple[str, str]]:
    with env.database.read() as session:
        rows = session.exec(select(Signal).order_by(col(Signal.id)))
        return [(signal.message_id, signal.kind) for signal in rows]


def test_regenerating_and_editing_are_noted_on_the_reply_that_was_not_good_enough(env: ChatEnv) -> None:
    first = env.send("One").message()
    env.service.regenerate(env.user_id, first.id, sampling=SHORT, compare=True).message()
    assert noted(env) == []  # to compare two replies says nothing against the first
    env.regenerate(first.id)
    assert noted(env) == [(first.id, "regenerated")]
    question, again = env.path()
    second = env.send("Two").message()
    assert len(noted(env)) == 1  # going on is no signal

    edited = env.send("Two?", edits=second.parent_id)
    edited.message()
    assert noted(env)[1:] == [(second.id, "edited")]
    assert [m.content for m in env.path()][:3] == ["One", again.content, "Two?"]
    branch = env.send("2!", parent_id=again.id)
    branch.message()
    assert noted(env)[2:] == [(edited.message_id, "edited")]

    root = env.send("Otherwise", edits=question.id)
    answer = root.message()
    assert [m.content for m in env.path()] == ["Otherwise", answer.content]
    assert noted(env)[3:] == [(again.id, "edited")]
    env.regenerate(root.user_message_id)
    assert noted(env)[4:] == [(root.message_id, "regenerated")]


def test_a_message_stands_in_place_of_an_own_one_of_the_same_chat_only(env: ChatEnv) -> None:
    reply = env.send("One").message()
    for chat_id, changes, message in (
        (env.chat_id, {"edits": reply.id}, "is a reply"),
        (env.chat_id, {"edits": reply.parent_id, "parent_id": reply.id}, "not both"),
        (env.new_chat(), {"edits": reply.parent_id}, "is not of chat"),
    ):
        with pytest.raises(InvalidInput, match=message):
            env.service.send(env.user_id, chat_id, "Two", **changes)  # type: ignore[arg-type]
    assert noted(env) == []
    assert len(env.path()) == 2


@pytest.mark.both_engines
def test_a_reply_whose_person_is_erased_ends_and_writes_nothing_back(env: ChatEnv) -> None:
    live = env.send("Tell me of the xylophone.", sampling=LONG)
    text = iter(live)
    assert next(text)
    with env.database.write() as session:
        erasure.erase_user(session, env.user_id, by="admin")
    for _ in text:  # it ends, long before the model would
        pass
    reply = env.stored(live.message_id)
    assert (reply.state, reply.content, reply.token_ids) == ("erased", "", None)
    assert live.message().content == ""
    with pytest.raises(NotFound):
        env.service.regenerate(env.user_id, live.message_id)


@pytest.mark.both_engines
def test_no_reply_begins_in_a_chat_that_was_erased_meanwhile(env: ChatEnv) -> None:
    reply = env.send().message()
    with env.database.write() as session:
        erasure.erase_user(session, env.user_id, by="admin")
        with pytest.raises(NotFound):
            chats.begin_reply(session, env.chat_id, str(reply.parent_id), model_version_id="", sampling={})
