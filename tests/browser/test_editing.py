"""A message of one's own is edited on the chat page, and what is in the box outlives a reload."""

from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from storage.db.database import open_database
from storage.people.users import create_user
from tests.support.chatting import (
    PHONE,
    OpenPage,
    assert_fits,
    box,
    chat_id,
    hold_next,
    new_chat,
    send,
    send_and_wait,
    stop_button,
    stored_messages,
    wait_for_text,
)
from tests.support.live_server import LiveServer, StartServer


def pencil(page: Page, number: int = -1) -> Locator:
    return page.get_by_role("button", name="Edit message").nth(number)


def banner(page: Page) -> Locator:
    return page.get_by_text("Editing your message.")


def texts(page: Page) -> Locator:
    return page.locator(".tl-text")


def stored_texts(page: Page, server: LiveServer) -> list[object]:
    return [message["content"] for message in stored_messages(page, server.url) if message["role"] == "user"]


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_edited_message_stands_in_the_place_of_the_first(
    chat_server: LiveServer, open_page: OpenPage, kind: str
) -> None:
    page = open_page(chat_server.url, **(PHONE if kind == "phone" else {}))
    text = "if a < b:\n    print('<i>**x**</i>')  # &amp; `so`\n\n![](http://example.com/x.png)"
    send_and_wait(page, "One")
    send_and_wait(page, text)
    assert texts(page).last.inner_text() == text
    send_and_wait(page, "Three")
    if kind == "phone":
        edge = pencil(page, 1).bounding_box()
        assert edge is not None
        assert edge["x"] >= 0
        pencil(page, 1).tap()
    else:
        pencil(page, 1).click()
    expect(banner(page)).to_be_visible()
    expect(box(page)).to_be_focused()
    expect(box(page)).to_have_value(text)
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
    assert_fits(page)

    before = stored_messages(page, chat_server.url)
    send(page, "Two, edited")
    expect(texts(page)).to_have_text(["One", "Two, edited"])
    expect(page.locator("[data-message]")).to_have_count(2)
    expect(banner(page)).not_to_be_visible()
    expect(box(page)).to_have_value("")
    after = stored_messages(page, chat_server.url)
    assert after[:2] == before[:2]
    assert before[2]["id"] in after[2]["siblings"]  # type: ignore[operator]
    page.reload()
    expect(texts(page)).to_have_text(["One", "Two, edited"])
    expect(banner(page)).not_to_be_visible()
    send_and_wait(page, "Then")  # a message like any other again
    expect(texts(page)).to_have_text(["One", "Two, edited", "Then"])


def test_editing_by_keyboard_is_left_with_escape(page: Page) -> None:
    box(page).fill("half a thought")
    pencil(page).focus()
    page.keyboard.press("Enter")
    expect(box(page)).to_have_value("Hello")
    expect(box(page)).to_be_focused()
    page.keyboard.type(", world")
    page.keyboard.press("Escape")
    expect(banner(page)).not_to_be_visible()
    expect(box(page)).to_have_value("half a thought")
    expect(pencil(page)).to_be_focused()

    page.keyboard.press("Enter")
    page.keyboard.type(" again")
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_text(["Hello again"])
    expect(box(page)).to_have_value("half a thought")  # for the message that was being written
    expect(banner(page)).not_to_be_visible()
    page.get_by_role("button", name="Send").click()
    expect(texts(page)).to_have_text(["Hello again", "half a thought"])


def test_editing_is_left_with_its_button_and_with_its_chat(page: Page, chat_server: LiveServer) -> None:
    pencil(page).click()
    page.get_by_role("button", name="Cancel").click()
    expect(banner(page)).not_to_be_visible()
    expect(box(page)).to_have_value("")
    assert stored_texts(page, chat_server) == ["Hello"]

    pencil(page).click()
    new_chat(page)
    expect(banner(page)).not_to_be_visible()
    expect(box(page)).to_have_value("")
    send_and_wait(page, "Another chat")
    assert stored_texts(page, chat_server) == ["Another chat"]


def test_refused_edit_goes_on(page: Page) -> None:
    pencil(page).click()
    send(page, "x" * 2001)
    expect(page.get_by_role("alert")).to_contain_text("2001 characters")
    expect(banner(page)).to_be_visible()
    expect(box(page)).to_have_value("x" * 2001)
    send(page, "Shorter")
    expect(texts(page)).to_have_text(["Shorter"])


def test_no_message_is_edited_while_a_reply_streams(endless_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(endless_server.url)
    send(page, "Tell me a long story.")
    wait_for_text(page)
    expect(page.get_by_role("button", name="Edit message")).to_have_count(0)
    stop_button(page).click()
    pencil(page).click()
    send(page, "A short one.")
    expect(texts(page)).to_have_text(["A short one."])
    stop_button(page).click()
    expect(page.get_by_role("button", name="Edit message")).to_have_count(1)


def test_draft_outlives_a_reload_with_its_editing(page: Page) -> None:
    box(page).fill("half\na <thought>")
    page.reload()
    expect(box(page)).to_have_value("half\na <thought>")
    pencil(page).click()
    box(page).fill("Hello, world")
    page.reload()
    expect(banner(page)).to_be_visible()
    expect(box(page)).to_have_value("Hello, world")
    page.get_by_role("button", name="Send").click()
    expect(texts(page)).to_have_text(["Hello, world"])
    expect(box(page)).to_have_value("half\na <thought>")
    box(page).fill("")
    page.reload()
    expect(texts(page)).to_have_text(["Hello, world"])
    expect(box(page)).to_have_value("")


def test_message_that_the_server_did_not_get_comes_back(live_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(live_server.url)
    send_and_wait(page, "Before")
    open_chat = chat_id(page)
    live_server.kill()
    send(page, "Never got there")
    expect(page.get_by_text("Connection to the server was lost")).to_be_visible()
    expect(page.locator("#tl-notice")).to_contain_text("this was not sent")
    box(page).press_sequentially(", and typed on")
    # Gradio reloads the page once the server answers. If two of its attempts were waiting, it
    # reloads twice, and the second reload aborts the first.
    with page.expect_event("load"):
        live_server.start()
    expect(box(page)).to_have_value("Never got there, and typed on")
    assert chat_id(page) == open_chat
    assert stored_texts(page, live_server) == ["Before"]
    page.get_by_role("button", name="Send").click()
    expect(texts(page)).to_have_text(["Before", "Never got there, and typed on"])
    expect(box(page)).to_have_value("")


def test_message_sent_after_the_server_was_lost_amid_a_reply_is_said_to_stay(
    start_server: StartServer, talkative_model: Path, open_page: OpenPage
) -> None:
    """Gradio knows that the server is gone, and does not even try to send."""
    server = start_server(model=talkative_model, max_new_tokens=800)
    page = open_page(server.url)
    send(page, "Hello")
    wait_for_text(page)
    server.kill()
    expect(page.get_by_text("Connection to the server was lost")).to_be_visible()
    expect(page.locator("#tl-notice")).not_to_contain_text("this was not sent")
    box(page).fill("And another")
    box(page).press("Enter")
    expect(page.locator("#tl-notice")).to_contain_text("this was not sent")
    expect(box(page)).to_have_value("And another")


def test_message_that_arrived_does_not_come_back(chat_server: LiveServer, open_page: OpenPage) -> None:
    """The server stored it, and the page never heard of that."""
    page = open_page(chat_server.url)
    send_and_wait(page, "Again")
    box(page).fill("Again")
    page.reload()
    expect(box(page)).to_have_value("Again")  # not sent, though it reads like the last one
    path = f"{chat_server.url}/api/v1/chats/{chat_id(page)}/messages?stream=false"
    here = page.url
    page.goto("about:blank")  # a page that is still loading would hear of it, and draw it
    assert page.request.post(path, data={"content": "Again"}, headers={"Origin": chat_server.url}).ok
    page.goto(here)
    expect(texts(page)).to_have_text(["Again", "Again"])
    expect(box(page)).to_have_value("")


@pytest.mark.parametrize("edited", [False, True], ids=["new message", "edited message"])
def test_what_is_typed_while_a_message_is_on_its_way_stays(page: Page, edited: bool) -> None:
    box(page).fill("kept aside, ")
    if edited:
        page.get_by_role("button", name="Edit message").click()
    box(page).fill("First")
    held = hold_next(page, "**/queue/join*")
    with page.expect_request("**/queue/join*"):
        box(page).press("Enter")
    box(page).press_sequentially(" and second")
    held[0].continue_()
    expect(page.locator(".tl-text").last).to_have_text("First")
    expect(box(page)).to_have_value("kept aside,  and second" if edited else " and second")
    expect(page.locator(".tl-editing")).to_have_count(0)


def test_a_draft_is_kept_for_its_writer_alone(start_server: StartServer, open_page: OpenPage) -> None:
    server = start_server(auth="accounts")
    with closing(open_database(server.settings)) as database, database.write() as session:
        for name in ("ada", "somebody-with-a-long-name"):
            create_user(session, name, role="admin", password="correct horse")
    page = open_page(server.url)
    dialog = page.get_by_role("dialog")

    def sign_in(name: str) -> None:
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill("correct horse")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("[data-reply]")).to_be_attached()  # loaded

    def end_session() -> None:
        """As another browser of the same person can, or the session's age."""
        assert page.request.post(f"{server.url}/sessions").ok
        send(page, "between us")
        expect(dialog).to_contain_text("You are signed out")

    sign_in("ada")
    send_and_wait(page, "Hello")
    end_session()
    dialog.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Like", exact=True).click()  # the transcript is not covered
    expect(page.locator(".tl-bar .tl-refused")).to_have_text("You are signed out: the vote was not stored.")
    dialog.get_by_role("link", name="Sign in again").click()
    sign_in("ada")
    expect(box(page)).to_have_value("between us")
    expect(page.locator("[data-message]")).to_have_count(1)
    end_session()
    dialog.get_by_role("link", name="Sign in again").click()
    sign_in("somebody-with-a-long-name")
    expect(box(page)).to_have_value("")
    page.set_viewport_size({"width": 320, "height": 640})
    assert_fits(page)
    expect(page.get_by_role("button", name="Sign out")).to_be_in_viewport(ratio=1)

    box(page).fill("between us")
    page.reload()
    expect(box(page)).to_have_value("between us")
    page.get_by_role("button", name="Sign out").click()
    sign_in("ada")
    expect(box(page)).to_have_value("")


def test_page_that_is_left_before_its_box_is_drawn_keeps_the_draft(page: Page) -> None:
    kept = '{"text":"kept"}'
    page.evaluate("kept => sessionStorage.setItem('tl-draft', kept)", kept)
    page.evaluate("document.querySelector('#tl-box').remove(); dispatchEvent(new Event('pagehide'))")
    assert page.evaluate("sessionStorage.getItem('tl-draft')") == kept  # and the page raised no error
