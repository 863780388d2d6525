"""What the chat page draws while other events of the same tab, and other tabs, do theirs.

A drawing is a generator: between two `next`, it is on its way to the page, and whatever happens then has
happened while it was sent.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import gradio as gr
import pytest

from app.pages.chat.render import MOST_FOLLOWERS, ChatRenderer, Update
from app.pages.chat.tab_state import TabState
from app.web.auth import Identity
from app.web.languages import ENGLISH
from storage.chats.chats import get_chat
from storage.chats.votes import cast_vote
from storage.privacy.consent import set_consent
from storage.registry.model_versions import deploy_version
from storage.settings import Settings
from tests.support.chat_env import LONG, ChatEnv
from tests.support.rows import publish_candidate


@pytest.fixture
def renderer(env: ChatEnv, settings: Settings) -> ChatRenderer:
    with gr.Blocks():
        names = ("side", "header", "welcome", "notice")
        parts: dict[str, Any] = {name: gr.HTML() for name in names}
        return ChatRenderer(settings, env.database, env.service, gr.Chatbot(), **parts, consent=gr.Checkbox())


@pytest.fixture
def me(env: ChatEnv) -> Identity:
    return Identity(env.user_id, "me", "user")


def texts(renderer: ChatRenderer, drawn: Update) -> str:
    """All that the transcript says, its buttons included."""
    return repr(drawn[renderer.chatbot])


def reply(renderer: ChatRenderer, drawn: Update) -> str:
    """What is drawn of the last reply: the buttons below the transcript follow from it."""
    found = re.search(r'data-reply="(\w*)"', drawn[renderer.side])
    assert found is not None
    return found[1]


def next_whole(renderer: ChatRenderer, drawing: Iterator[Update]) -> Update:
    """The next drawing of everything; those of a reply's text, or of nothing, go by."""
    return next(drawn for drawn in drawing if renderer.side in drawn)


def test_a_reply_that_ends_while_its_page_is_drawn_is_drawn_as_ended(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    live = env.send(sampling=LONG)
    drawing = renderer.follow(TabState(chat_id=env.chat_id), me)
    assert reply(renderer, next(drawing)) == "streaming"
    live.cancel()
    live.message()
    last = next_whole(renderer, drawing)
    assert reply(renderer, last) == "ended"
    assert "data-message" in texts(renderer, last)


def test_a_reply_that_another_tab_asked_for_is_followed_to_its_end(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    live = env.send(sampling=LONG)
    drawing = renderer.follow(TabState(chat_id=env.chat_id), me)
    assert reply(renderer, next(drawing)) == "streaming"
    assert any(list(drawn) == [renderer.chatbot] for drawn in drawing)
    live.cancel()
    assert reply(renderer, next_whole(renderer, drawing)) == "ended"


def test_one_person_follows_a_reply_in_a_bounded_number_of_tabs(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    live = env.send(sampling=LONG)
    followed = [renderer.follow(TabState(chat_id=env.chat_id), me) for _ in range(MOST_FOLLOWERS)]
    for drawing in followed:
        next(drawing)
        next(drawing)
    refused = islice(renderer.follow(TabState(chat_id=env.chat_id), me), 3)
    assert any(ENGLISH("too_many_tabs") in str(drawn.get(renderer.notice)) for drawn in refused)
    live.cancel()
    live.message()
    for drawing in followed:
        assert reply(renderer, [each for each in drawing if renderer.side in each][-1]) == "ended"
    assert not renderer.followers


def test_what_another_event_began_while_the_page_was_drawn_is_drawn_too(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    tab = TabState()
    drawing = renderer.follow(tab, me)
    assert next(drawing)[renderer.chatbot] == []
    live = env.send("Quick", sampling=LONG)
    tab.chat_id = env.chat_id
    drawn = next_whole(renderer, drawing)
    assert "Quick" in texts(renderer, drawn)
    assert reply(renderer, drawn) == "streaming"
    live.cancel()


def test_a_text_that_was_on_its_way_when_its_chat_was_left_does_not_stay(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    live = env.send(sampling=LONG)
    tab = TabState(chat_id=env.chat_id)
    drawing = renderer.stream(tab, me, live)
    assert reply(renderer, next(drawing)) == "streaming"
    assert list(next(drawing)) == [renderer.chatbot]
    tab.chat_id = None  # "New chat", drawn before that text
    drawn = next(drawing)
    assert drawn[renderer.chatbot] == []
    assert reply(renderer, drawn) == ""
    assert not live.over
    live.cancel()


@pytest.mark.parametrize("leave", [True, False], ids=["left", "stayed"])
def test_the_end_of_a_reply_is_drawn_last_only_where_its_chat_is_still_open(
    env: ChatEnv, renderer: ChatRenderer, me: Identity, leave: bool
) -> None:
    live = env.send(sampling=LONG)
    tab = TabState(chat_id=env.chat_id)
    drawing = renderer.stream(tab, me, live)
    next(drawing)
    assert list(next(drawing)) == [renderer.chatbot]
    live.cancel()
    assert "data-vote" in texts(renderer, next_whole(renderer, drawing))
    if leave:
        tab.chat_id = None
        assert next(drawing)[renderer.chatbot] == []
    # Gradio draws a generator's last drawing once more when it ends, so that must be nothing.
    assert list(drawing) == [{renderer.notice: gr.skip()}]


def test_the_box_is_drawn_where_it_changes_and_does_not_undo_a_click_on_its_way(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    tab = TabState(chat_id=env.chat_id)

    def drawn() -> Any:
        return next(renderer.show(tab, me))[renderer.consent]

    assert (drawn(), drawn()) == (True, gr.skip())
    with env.database.write() as session:  # in another tab
        set_consent(session, get_chat(session, env.chat_id), False, by="me")
    assert (drawn(), drawn()) == (False, gr.skip())
    drawing = renderer.show(tab, me)
    assert next(drawing)[renderer.consent] == gr.skip()
    tab.chat_id, tab.consent = None, False  # of which a drawing may have been overtaken by that one
    assert next(drawing)[renderer.consent] is False


def test_a_refusal_is_not_wiped_by_what_is_drawn_without_a_notice(
    renderer: ChatRenderer, me: Identity
) -> None:
    def notice(error: str | None) -> object:
        return next(renderer.follow(TabState(), me, error))[renderer.notice]

    assert notice(None) == gr.skip()
    assert notice("") == ""
    assert "No such chat" in str(notice("No such chat"))


def test_the_header_says_when_the_version_that_answers_learned_from_the_persons_votes(
    env: ChatEnv, renderer: ChatRenderer, me: Identity
) -> None:
    reply_id = env.send().message().id
    with env.database.write() as session:
        cast_vote(session, user_id=env.user_id, message_id=reply_id, label=True)
        version = publish_candidate(session, [(reply_id, env.user_id)])
        deploy_version(session, version.id, by="test", why="test")

    def header(identity: Identity) -> str:
        return str(next(renderer.show(TabState(), identity))[renderer.header])

    assert f"{version.name} learned from your votes" in header(me)
    assert "your votes" not in header(Identity(env.new_person(), "other", "user"))
