"""The chat page in a real browser: streaming, thumbs, stop, regenerate, chats, errors, phones."""

from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.chatting import (
    PHONE,
    WATCH,
    OpenPage,
    assert_fits,
    box,
    chat_id,
    expect_vote,
    new_chat,
    reply_text,
    send,
    send_and_wait,
    stop_button,
    stored_messages,
    thumb,
    wait_for_text,
)
from tests.support.live_server import LiveServer, StartServer, wait_until


def stored_vote(page: Page, server: LiveServer) -> object:
    vote = stored_messages(page, server.url)[-1]["vote"]
    return vote["label"] if isinstance(vote, dict) else None


def test_reply_streams_and_its_vote_survives_a_reload(
    talkative_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talkative_server.url)
    page.evaluate(WATCH)
    send_and_wait(page, "Tell me a long story.")
    lengths = page.evaluate("window.lengths")
    assert len(lengths) >= 3, f"the text did not grow while it streamed: {lengths}"
    # It grows and never begins anew. What the model writes is a draw, and Markdown may take some of it away:
    # a mark is text until its other half comes.
    assert lengths[-1] > lengths[0]
    assert all(later > earlier / 2 for earlier, later in pairwise(lengths)), lengths
    expect(page.locator("[data-message]").last).to_contain_text("v1")
    expect_vote(page, None)

    thumb(page, "Like").click()
    expect_vote(page, True)
    assert stored_vote(page, talkative_server) is True
    page.reload()
    expect_vote(page, True)

    thumb(page, "Dislike").click()
    expect_vote(page, False)
    assert stored_vote(page, talkative_server) is False
    thumb(page, "Dislike").click()
    expect_vote(page, None)
    assert stored_vote(page, talkative_server) is None
    page.reload()
    expect_vote(page, None)


def test_vote_is_stored_even_if_the_page_is_reloaded_at_once(page: Page, chat_server: LiveServer) -> None:
    thumb(page, "Like").click()
    page.reload()
    wait_until(lambda: stored_vote(page, chat_server) is True)


def test_a_press_counts_though_the_button_is_drawn_again_while_it_is_held_down(
    page: Page, chat_server: LiveServer
) -> None:
    thumb(page, "Like").hover()
    page.mouse.down()
    bar = page.locator("[data-message]").last
    bar.evaluate("bar => bar.replaceWith(bar.cloneNode(true))")
    page.mouse.up()
    expect_vote(page, True)
    assert stored_vote(page, chat_server) is True
    # Whoever lets go elsewhere has changed their mind.
    thumb(page, "Dislike").hover()
    page.mouse.down()
    bar.evaluate("bar => bar.replaceWith(bar.cloneNode(true))")
    thumb(page, "Like").hover()
    page.mouse.up()
    expect_vote(page, True)
    assert stored_vote(page, chat_server) is True
    page.get_by_role("button", name="Say more…").hover()
    page.mouse.down()
    bar.evaluate("bar => bar.replaceWith(bar.cloneNode(true))")
    page.mouse.up()
    expect(page.get_by_label("Comment")).to_be_focused()


def test_every_reply_has_its_own_thumbs(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    for text in ("One", "Two", "Three"):
        send_and_wait(page, text)
    thumb(page, "Like", 0).click()
    thumb(page, "Dislike", 2).click()
    expect_vote(page, True, 0)
    expect_vote(page, False, 2)
    page.reload()
    for reply, label in enumerate((True, None, False)):
        expect_vote(page, label, reply)


def test_refused_vote_is_said_and_not_shown_as_cast(page: Page) -> None:
    page.context.clear_cookies()
    thumb(page, "Like").click()
    expect(page.locator(".tl-refused")).not_to_be_empty()
    expect_vote(page, None)


def test_stop_keeps_the_partial_text(endless_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(endless_server.url)
    send(page, "Tell me a long story.")
    wait_for_text(page)
    stop_button(page).click()
    expect(page.locator("[data-message]")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    shown = reply_text(page)
    assert stored_messages(page, endless_server.url)[-1]["state"] == "stopped"
    page.reload()
    expect(page.locator("[data-message]")).to_contain_text("stopped")
    assert reply_text(page) == shown


def test_reload_while_streaming_shows_what_there_is(
    talkative_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talkative_server.url)
    send(page, "Tell me a long story.")
    wait_for_text(page)
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(1)
    assert reply_text(page)
    expect(page.get_by_role("button", name="Send")).to_be_visible()


def test_chats_are_listed_opened_and_kept(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "About <b>rivers</b> ${1+1} {{this}}")
    rivers = chat_id(page)
    new_chat(page)
    expect(page.get_by_role("heading", name="What would you like to talk about?")).to_be_visible()
    send_and_wait(page, "About mountains")
    assert chat_id(page) != rivers

    chats = page.get_by_role("navigation", name="Your chats").get_by_role("link")
    expect(chats).to_have_text(["About mountains", "About <b>rivers</b> ${1+1} {{this}}"])
    chats.nth(1).click()
    expect(page.locator(".user-row")).to_have_text("About <b>rivers</b> ${1+1} {{this}}")
    expect(chats.nth(1)).to_have_attribute("aria-current", "page")
    assert chat_id(page) == rivers
    page.reload()
    expect(page.locator(".user-row")).to_have_text("About <b>rivers</b> ${1+1} {{this}}")
    expect(page.locator("#tl-transcript b")).to_have_count(0)

    page.get_by_label("Rename, export or delete: About mountains").click()
    page.get_by_role("textbox", name="Title").fill("Hills ")
    page.keyboard.press("Enter")
    expect(chats).to_have_text(["Hills", "About <b>rivers</b> ${1+1} {{this}}"])
    expect(page).to_have_title("About <b>rivers</b> ${1+1} {{this}} · Thumbloop")
    page.get_by_label("Rename, export or delete: About").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(chats).to_have_text(["Hills"])
    expect(page.locator("[data-message]")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(chats).to_have_count(2)
    expect(page.locator(".user-row")).to_have_text("About <b>rivers</b> ${1+1} {{this}}")


def test_somebody_elses_chat_stays_closed(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "My secret")
    other = open_page(f"{chat_server.url}/?chat={chat_id(page)}")
    expect(other.get_by_role("alert")).to_contain_text("no such chat")
    expect(other.get_by_text("My secret")).to_have_count(0)


def test_reply_goes_on_while_another_chat_is_open(talkative_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talkative_server.url)
    send(page, "A long story")
    wait_for_text(page)
    story = chat_id(page)
    new_chat(page)
    expect(page.locator(".message-row")).to_have_count(0)
    send(page, "Another")
    expect(page.locator(".user-row")).to_have_text("Another")
    expect(page.locator("[data-message]")).to_have_count(1)
    expect(page.locator(".user-row")).to_have_text("Another")
    page.get_by_role("link", name="A long story").click()
    expect(page.locator(".user-row")).to_have_text("A long story")
    expect(page.locator("[data-message]")).to_have_count(1)
    assert chat_id(page) == story
    assert stored_messages(page, talkative_server.url)[-1]["state"] == "complete"


def test_open_page_goes_on_after_a_restart_of_the_server_in_its_chat_and_in_a_new_one(
    live_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(live_server.url)
    send_and_wait(page, "Before")
    open_chat = chat_id(page)
    live_server.kill()
    live_server.start()
    # A stream that was still open when the server died makes Gradio reload the page once it is back.
    expect(page.get_by_text("Connection to the server was lost")).to_have_count(0)
    expect(page.locator("[data-message]")).to_have_count(1)
    send_and_wait(page, "After")
    expect(page.locator(".user-row")).to_have_text(["Before", "After"])
    assert chat_id(page) == open_chat

    live_server.kill()
    live_server.start()
    expect(page.get_by_text("Connection to the server was lost")).to_have_count(0)
    new_chat(page)
    send_and_wait(page, "New")
    expect(page.locator(".user-row")).to_have_text("New")


def test_page_whose_reply_died_with_the_server_comes_back_with_it(
    start_server: StartServer, open_page: OpenPage, endless_model: Path
) -> None:
    server = start_server(model=endless_model, max_new_tokens=100_000)
    page = open_page(server.url)
    send(page, "A long story")
    wait_for_text(page)
    open_chat = chat_id(page)
    wait_until(lambda: stored_messages(page, server.url)[-1]["content"] != "")
    server.kill()
    lost = page.get_by_text("Connection to the server was lost")
    expect(lost).to_be_visible()
    server.settings = server.settings.model_copy(update={"max_new_tokens": 24})
    server.start()
    expect(lost).to_have_count(0)
    expect(page.locator(".user-row")).to_have_text("A long story")
    assert chat_id(page) == open_chat
    expect(page.locator("[data-message]")).to_contain_text("its server stopped")
    assert reply_text(page)
    expect(stop_button(page)).to_have_count(0)
    send_and_wait(page, "Another")
    expect(page.locator(".user-row")).to_have_text(["A long story", "Another"])


@pytest.mark.parametrize("started", [False, True], ids=["new chat", "open chat"])
def test_refused_message_stays_in_the_box(
    chat_server: LiveServer, open_page: OpenPage, started: bool
) -> None:
    page = open_page(chat_server.url)
    if started:
        send_and_wait(page, "Hello")
    chats = page.get_by_role("navigation", name="Your chats").get_by_role("link")
    for text, reason in (("   ", "message"), ("x" * 2001, "2000"), ("wörd " * 390, "1024")):
        send(page, text)
        expect(page.get_by_role("alert")).to_contain_text(reason)
        expect(box(page)).to_have_value(text)
    expect(chats).to_have_count(1 if started else 0)


def test_phone(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url, color_scheme="dark", **PHONE)
    send_and_wait(page, "A question with a_very_long_word_" + "that_goes_on_" * 20)
    assert_fits(page)
    expect(box(page)).to_be_in_viewport()
    expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
    thumb(page, "Like").tap()
    expect_vote(page, True)

    link = page.get_by_role("link", name="A question")
    expect(link).not_to_be_visible()
    menu, close = (page.get_by_role("button", name=name) for name in ("Chats", "Close"))
    menu.tap()
    expect(close).to_be_focused()
    for _ in range(5):
        page.keyboard.press("Tab")  # does not lead to what is behind the drawer
        assert page.evaluate("document.activeElement.closest('#tl-main')") is None
    page.keyboard.press("Escape")
    expect(menu).to_be_focused()
    menu.tap()
    close.tap()
    expect(link).not_to_be_visible()
    menu.tap()
    link.tap()
    expect(link).not_to_be_visible()
    expect(box(page)).to_be_in_viewport()
