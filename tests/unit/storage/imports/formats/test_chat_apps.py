"""Votes that chat applications export: LibreChat, chat-ui, ChatGPT, Dify and Gradio."""

from pathlib import Path
from typing import Any

from gradio.events import LikeData
from gradio.flagging import ChatCSVLogger

from storage.imports.formats.table import FORMATS
from storage.imports.rows.options import ImportOptions
from tests.support.imported import convert, left_out, reason, row, rows_in, short


def sample(name: str, at: int = 0) -> dict[str, Any]:
    return dict(FORMATS[name].samples[at].record)


def test_librechat() -> None:
    chat = sample("librechat")
    found = row(chat)
    assert (found.tags, found.comment, found.ballot) == (("accurate_reliable",), "yes", ("c1/b", ""))
    assert short(convert(chat | {"options": {"promptPrefix": "Be brief."}})) == [("sua", "Tango.", True)]
    first, second = chat["messages"]
    tree = {"conversationId": "c1", "messagesTree": [first | {"children": [second]}]}
    assert short(convert(tree)) == [("ua", "Tango.", True)]
    assert short(convert(chat | {"messages": [first]})) == ["chat without a rating"]
    assert "has files, which cannot be imported" in reason(
        chat | {"messages": [first | {"files": [1]}, second]}
    )
    odd = second | {"feedback": {"rating": "meh"}}
    assert "A vote must be thumbs up or down, not 'meh'" in reason(chat | {"messages": [first, odd]})


def test_chat_ui() -> None:
    chat = sample("chat-ui")
    assert [one[1:] for one in short(convert(chat))] == [("Tango.", True), ("Running.", False)]
    older = {
        "messages": [{key: one[key] for key in one if key != "ancestors"} for one in chat["messages"][:2]]
    }
    assert short(convert(older)) == [("ua", "Tango.", True)]
    first, good, bad = ({key: one[key] for key in one if key != "ancestors"} for one in chat["messages"])
    by_children = {"messages": [first | {"children": ["b", "c"]}, good, bad]}
    assert [one[0] for one in short(convert(by_children))] == ["ua", "ua"]
    system = {"id": "s", "from": "system", "content": "Be kind.", "ancestors": []}
    asked = chat["messages"][0] | {"ancestors": ["s"]}
    found = row(chat | {"messages": [system, asked, chat["messages"][1] | {"ancestors": ["s", "a"]}]})
    assert found.turns[0].content == "Be kind."


def test_chatgpt() -> None:
    chat = sample("chatgpt")
    assert short(convert(chat)) == [("ua", "Tango.", True)]
    lost = chat | {"feedback": [{"id": "f", "conversation_id": "c1", "rating": "thumbs_down"}]}
    assert short(convert(lost)) == [
        "a vote that does not say which message it is on",
        "chat without a rating",
    ]
    profile = {"content_type": "user_editable_context", "user_instructions": "Be brief."}
    told = {"parent": "r", "message": {"author": {"role": "user"}, "content": profile}}
    asked = chat["mapping"]["a"] | {"parent": "p"}
    personal = chat | {"mapping": chat["mapping"] | {"p": told, "a": asked}}
    assert short(convert(personal)) == [("ua", "Tango.", True)]
    assert left_out(personal) == ["custom instructions"]
    alone = {"conversation_id": "c1", "rating": "thumbs_up", "id": "b", "content": "{}"}
    assert "import the whole unpacked folder" in reason(alone)


def test_dify() -> None:
    vote = sample("dify")
    found = row(vote)
    assert (found.label, found.comment, found.ballot) == (True, "Yes.", ("m1", "user/u1"))
    assert left_out(vote) == ["earlier turns"]
    assert row(vote | {"feedback_rating_raw": "dislike"}).label is False
    assert row(vote | {"feedback_rating_raw": None, "feedback_rating": "👎"}).label is False
    cut = "x" * 500 + "..."
    assert short(convert(vote | {"ai_response": cut})) == ["a text that Dify cut at 500 characters"]
    assert row(vote | {"ai_response": cut[1:]}).turns[-1].content == cut[1:]
    several = {"export_info": {}, "feedback_data": [vote, vote | {"feedback_source": "admin"}]}
    assert len({one.key for one in convert(several)}) == 2  # type: ignore[union-attr]


def test_the_log_of_gradio(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "=Hello"}]
    said += [{"role": "user", "content": "More"}, {"role": "assistant", "content": "B"}]
    logger = ChatCSVLogger()
    logger.setup(str(tmp_path))
    for index, liked in ((3, False), (1, True), (3, "Spam"), (1, "")):
        logger.flag(LikeData(None, {"index": index, "value": "B", "liked": liked}), said)
    options = ImportOptions(up_words="like", down_words="dislike,spam")
    found, report = rows_in(tmp_path / "log.csv", options)
    assert short(found) == [("uaua", "B", False), ("ua", "=Hello", True), ("uaua", "B", False)]
    assert report.dropped == {"a vote that was taken back": 1}
    assert "index must be the place of a message" in reason(sample("gradio") | {"index": 9})
