"""What a person does with their chats: search, take one away as a file, have one open in two tabs."""

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.support.chatting import (
    OpenPage,
    box,
    chat_id,
    expect_vote,
    new_chat,
    send_and_wait,
    stored_messages,
    thumb,
    with_replies,
)
from tests.support.live_server import LiveServer


def test_search_lists_the_chats_with_the_text_while_it_is_typed(page: Page) -> None:
    new_chat(page)
    send_and_wait(page, "About 100% of rivers")
    chats = page.get_by_role("navigation", name="Your chats").get_by_role("link")
    expect(chats).to_have_count(2)
    search = page.get_by_role("searchbox", name="Search your chats")
    search.press_sequentially("RIVER")
    expect(chats).to_have_text(["About 100% of rivers"])
    expect(search).to_be_focused()
    search.fill("<b>%%")
    expect(page.get_by_text("No chat has “<b>%%”.")).to_be_visible()
    expect(page.locator(".user-row")).to_have_text("About 100% of rivers")  # the open one stays
    search.fill("")
    expect(chats).to_have_count(2)


def test_a_pinned_chat_stands_on_top_until_it_is_unpinned(page: Page) -> None:
    new_chat(page)
    send_and_wait(page, "Later")
    chats = page.get_by_role("navigation", name="Your chats")
    expect(chats.get_by_role("link")).to_have_text(["Later", "Hello"])
    page.get_by_label("Rename, export or delete: Hello").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(chats.get_by_role("link")).to_have_text(["Hello", "Later"])
    expect(chats.get_by_role("heading", level=2)).to_have_text(["Pinned", "Today"])
    page.get_by_role("searchbox").fill("l")
    expect(chats.get_by_role("link")).to_have_text(["Later", "Hello"])
    page.get_by_role("searchbox").fill("")
    expect(chats.get_by_role("link")).to_have_text(["Hello", "Later"])
    page.get_by_label("Rename, export or delete: Hello").click()
    page.get_by_role("button", name="Unpin").click()
    expect(chats.get_by_role("link")).to_have_text(["Later", "Hello"])


def test_a_chat_is_copied_and_downloaded(page: Page, chat_server: LiveServer) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    thumb(page, "Like").click()
    expect_vote(page, True)
    page.get_by_label("Rename, export or delete: Hello").click()
    page.get_by_role("button", name="Copy the whole chat").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    reply = str(stored_messages(page, chat_server.url)[-1]["content"]).strip()
    text = f"# Hello\n\n**You**\n\nHello\n\n**v1 👍**\n\n{reply}\n"
    assert page.evaluate("navigator.clipboard.readText()") == text
    for name, ending in (("Markdown", "md"), ("JSON", "json")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert download.value.suggested_filename == f"hello.{ending}"
        content = Path(download.value.path()).read_text(encoding="utf-8")
        if ending == "md":
            assert content == text
        else:
            chat = json.loads(content)
            assert [message["content"].strip() for message in chat["messages"]] == ["Hello", reply]
            assert chat["messages"][-1]["vote"]["label"] is True


def test_a_second_tab_of_a_chat_learns_what_the_first_did(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    first = open_page(chat_server.url)
    send_and_wait(first, "Hello")
    second = first.context.new_page()
    second.goto(f"{chat_server.url}/?chat={chat_id(first)}")
    expect(second.locator("[data-message]")).to_have_count(1)
    thumb(second, "Dislike").click()
    expect_vote(second, False)
    box(second).fill("half a thought")
    send_and_wait(first, "And more")
    thumb(first, "Like", 0).click()
    expect_vote(first, True, 0)

    second.evaluate("dispatchEvent(new Event('focus'))")  # a headless browser has no focus to give
    expect(second.locator("[data-message]")).to_have_count(2)
    expect_vote(second, True, 0)
    expect(box(second)).to_have_value("half a thought")


def test_title_of_a_chat_follows_its_edited_first_message(page: Page) -> None:
    page.get_by_role("button", name="Edit message").click()
    box(page).fill("Good morning")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-text")).to_have_text("Good morning")
    expect(page.get_by_role("navigation", name="Your chats").get_by_role("link")).to_have_text("Good morning")
    expect(page).to_have_title("Good morning · Thumbloop")


def test_a_long_chat_shows_its_newest_messages_and_earlier_ones_on_demand(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "The first one")
    with_replies(page, chat_server, [f"Reply {number}" for number in range(1, 111)])
    page.reload()
    rows, newest = page.locator("#tl-transcript .message-row"), page.get_by_text("Reply 110", exact=True).last
    expect(newest).to_be_in_viewport()
    expect(rows).to_have_count(151)  # a reply has two, and the button one
    place = page.get_by_text("Reply 61", exact=True).first  # the first of those that are shown
    earlier = page.get_by_role("button", name="Show earlier messages")
    earlier.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#tl-transcript .bubble-wrap').scrollTop < 50")
    earlier.click()
    expect(rows).to_have_count(301)
    expect(place).to_be_in_viewport()
    earlier.click()
    expect(rows).to_have_count(333)
    expect(earlier).to_have_count(0)
    new_chat(page)
    page.get_by_role("link", name="The first one").click()
    expect(rows).to_have_count(151)
