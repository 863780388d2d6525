"""What the pages make of stored text: nothing vanishes, nothing becomes markup or a request."""

import itertools
from typing import Any

import pytest

from app.pages.chat.transcript import (
    ShownMessage,
    chatbot_messages,
    is_asked,
    message_html,
    offered_tags,
)
from app.pages.html import notice, render
from app.web.languages import ENGLISH
from storage.db.tables import Chat, Message, Vote

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


def reply(**columns: Any) -> Message:
    return Message(**{"chat_id": "c", "role": "assistant", "content": "Hello", **columns})


def test_what_a_person_wrote_is_escaped() -> None:
    (shown,) = chatbot_messages([ShownMessage(Message(chat_id="c", role="user", content=HOSTILE))])
    assert "<script" not in shown["content"][0]["value"]
    assert "<img" not in shown["content"][0]["value"]


def test_titles_copies_and_errors_are_escaped() -> None:
    chat = Chat(owner_id="u", title=HOSTILE)
    for html in (
        render(
            "chat/chats.html",
            say=ENGLISH,
            groups={"today": [chat]},
            current=chat.id,
            more=False,
            reply="",
            person="",
            deleted=("id", HOSTILE),
            search=HOSTILE,
            titling=False,
        ),
        message_html(ShownMessage(reply(content=HOSTILE))),
        notice(HOSTILE),
    ):
        assert "<script" not in html
        assert "<img" not in html


@pytest.mark.parametrize(
    ("label", "up", "down"), [(True, "true", "false"), (False, "false", "true"), (None, "false", "false")]
)
def test_thumbs_say_their_state(label: bool | None, up: str, down: str) -> None:
    vote = Vote(message_id="m", user_id="u", label=label) if label is not None else None
    bar = message_html(ShownMessage(reply(), version="v3", vote=vote))
    assert ('class="tl-details" data-thumb="" hidden' in bar) == (label is None)
    assert f'data-vote="up" aria-pressed="{up}"' in bar
    assert f'data-vote="down" aria-pressed="{down}"' in bar
    assert "v3" in bar


def test_a_reply_from_which_nothing_can_be_learned_has_no_thumbs() -> None:
    for columns in ({"content": " ", "state": "stopped"}, {"state": "failed"}, {"state": "given"}):
        assert "data-vote" not in message_html(ShownMessage(reply(**columns))), columns


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"state": "stopped"}, "stopped"),
        ({"state": "stopped", "finish_reason": "interrupted"}, "its server stopped"),
        ({"finish_reason": "length"}, "cut at the length limit"),
        ({"content": " "}, "answer is empty"),
        ({"state": "failed"}, "Regenerate"),
    ],
)
def test_bar_says_how_a_reply_ended(columns: dict[str, Any], said: str) -> None:
    assert said in message_html(ShownMessage(reply(**columns)))


def test_reasoning_is_folded_above_the_reply_and_escaped() -> None:
    def shown(**columns: Any) -> list[str]:
        (message,) = chatbot_messages([ShownMessage(reply(reasoning=HOSTILE, **columns))])
        return [part.get("value", part.get("text")) for part in message["content"]]

    folded, text, _ = shown(content="Four.")
    assert folded.index("<details") < folded.index("<summary>Reasoning</summary>")
    assert "<script" not in folded
    assert text == "Four."
    thinking, typing = shown(content="", state="streaming")
    assert "<summary>Thinking…</summary>" in thinking
    assert "tl-typing" in typing
    cut, bar = shown(content="", finish_reason="length")
    assert ("Reasoning</summary>" in cut, "data-vote" in bar) == (True, False)


def test_what_was_said_with_a_vote_is_shown_and_escaped() -> None:
    said = {"tags": ["wrong", HOSTILE], "comment": f"\n</span>{HOSTILE}", "correction": "Better."}
    bar = message_html(
        ShownMessage(reply(), vote=Vote(message_id="m", user_id="u", label=False, **said)),
        offered_tags(up=["clear"], down=["wrong", "tone"]),
    )
    assert 'data-tag="wrong" data-after="down" aria-pressed="true"' in bar
    assert 'data-tag="tone" data-after="down" aria-pressed="false"' in bar
    assert 'data-tag="clear" data-after="up" aria-pressed="false"' in bar
    assert 'data-after="up down" aria-pressed="true"' in bar
    assert bar.count("data-tag") == 4  # the vote's own too, or a change would lose it
    assert (
        '<div class="tl-own"><small>Comment</small><span dir="auto" data-text="comment">\n&lt;/span&gt;'
        in bar
    )
    assert "Better.</span>" in bar
    assert "<script" not in bar


@pytest.mark.parametrize("state", ["failed", "given", "erased"])
def test_replies_that_cannot_be_voted_on_have_no_thumbs(state: str) -> None:
    assert "data-vote" not in message_html(
        ShownMessage(reply(state=state)), offered_tags(up=[], down=["wrong"])
    )


def test_a_share_of_the_replies_is_asked_about_and_never_two_in_a_row() -> None:
    ids = [f"reply {number}" for number in range(400)]
    always = [is_asked(ids[: number + 1], 1.0) for number in range(6)]
    assert always == [True, False, True, False, True, False]
    assert not any(is_asked(ids[: number + 1], 0.0) for number in range(len(ids)))
    asked = [is_asked(ids[: number + 1], 0.3) for number in range(len(ids))]
    assert not any(first and second for first, second in itertools.pairwise(asked))
    assert 0.15 < sum(asked) / len(asked) < 0.3


def test_only_the_last_reply_without_a_vote_and_without_another_is_asked_about() -> None:
    def shown(item: ShownMessage) -> str:
        return str(chatbot_messages([item], compare_share=1.0))

    question = "Which of two replies is better?"
    assert question in shown(ShownMessage(reply()))
    assert question not in str(chatbot_messages([ShownMessage(reply())]))
    assert question not in shown(ShownMessage(reply(id="m"), alternatives=["m", "n"]))
    assert question not in shown(ShownMessage(reply(state="stopped")))
    voted = Vote(message_id="m", user_id="u", label=True)
    assert question not in shown(ShownMessage(reply(), vote=voted))


def test_streaming_replies_have_no_thumbs() -> None:
    (shown,) = chatbot_messages([ShownMessage(reply(state="streaming"))])
    assert [part["type"] for part in shown["content"]] == ["text"]


def test_alternatives_lead_to_their_neighbours_and_no_further() -> None:
    message = reply(id="b")
    ids = ["a", "b", "c"]
    middle = message_html(ShownMessage(message, alternatives=ids))
    assert 'data-show="a"' in middle
    assert 'data-show="c"' in middle
    assert ">2/3<" in middle
    first = message_html(ShownMessage(message, alternatives=ids[1:]))
    assert first.count("data-show") == 1
    assert first.count(" disabled") == 1
    assert "tl-alternatives" not in message_html(ShownMessage(message, alternatives=["b"]))


def test_nobody_leaves_a_reply_under_way_for_another_branch() -> None:
    sent = Message(id="q", chat_id="c", role="user", content="Hi")
    turns = [
        ShownMessage(sent, alternatives=["p", "q"]),
        ShownMessage(reply(id="b", state="streaming", content=""), alternatives=["a", "b"]),
    ]
    assert "data-show" not in str(chatbot_messages(turns))
    turns[1].message.state = "complete"
    assert str(chatbot_messages(turns)).count("data-show") == 2
