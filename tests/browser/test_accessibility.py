"""The chat page by keyboard and screen reader: names, focus, and no rule of axe-core broken."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.axe import violations
from tests.support.chatting import (
    NARROW,
    OpenPage,
    assert_fits,
    expect_vote,
    send_and_wait,
    thumb,
    with_replies,
)
from tests.support.live_server import LiveServer

CODE = "```python\nprint('" + "a long line " * 20 + "')  # and a comment\n```\n\n|a||\n|-|-|\n|b|c|"
TASKS = "|Method|" + "word " * 40 + "|\n|:-|-:|\n|Sorting|12|\n\n- [x] done"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_no_rule_of_axe_is_broken(
    chat_server: LiveServer, open_page: OpenPage, scheme: str, kind: str
) -> None:
    page = open_page(chat_server.url, color_scheme=scheme, **(NARROW if kind == "phone" else {}))
    expect(page.get_by_role("list", name="Ideas to begin with")).to_be_visible()
    assert violations(page) == []
    send_and_wait(page, "Hello")
    with_replies(page, chat_server, [CODE, TASKS])
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(3)
    thumb(page, "Dislike").click()
    expect_vote(page, False)
    assert violations(page) == []
    page.get_by_role("button", name="Say more…").last.click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Chat settings").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page) == []
    assert_fits(page)
    page.keyboard.press("Escape")
    if kind == "phone":
        page.get_by_role("button", name="Chats").tap()
        expect(page.get_by_role("button", name="Close")).to_be_focused()
        assert violations(page) == []


def test_a_screen_reader_hears_who_says_what_and_the_keyboard_scrolls_code(
    page: Page, chat_server: LiveServer
) -> None:
    with_replies(page, chat_server, [CODE])
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(2)
    names = [row.get_attribute("aria-label") for row in page.locator("#tl-transcript .message-row").all()]
    assert names == ["You", "Reply", "About the reply"] * 2
    expect(page.locator("#tl-transcript [data-testid][aria-label]")).to_have_count(0)
    expect(page.get_by_role("log")).to_have_attribute("aria-busy", "false")
    code = page.locator(".code_wrap pre")
    code.focus()
    page.keyboard.press("ArrowRight")
    expect(code).to_be_focused()
    expect(page.locator(".code_wrap")).to_have_attribute("data-language", "python")
    expect(page.get_by_role("button", name="Copy code")).to_be_visible()


def test_thumbs_by_key_vote_on_the_reply_with_the_focus_or_the_last_one(page: Page) -> None:
    send_and_wait(page, "Another")
    page.get_by_role("textbox", name="Message").press("u")  # there it is a letter
    expect(page.get_by_role("textbox", name="Message")).to_have_value("u")
    page.get_by_role("textbox", name="Message").fill("")
    page.get_by_role("log").click()
    page.keyboard.press("Control+u")
    page.keyboard.press("d")
    expect_vote(page, False)
    expect_vote(page, None, 0)
    page.get_by_role("button", name="Copy", exact=True).first.focus()
    page.keyboard.press("u")
    expect_vote(page, True, 0)
    page.keyboard.press("u")  # again: taken back
    expect_vote(page, None, 0)
    expect_vote(page, False)
    expect(thumb(page, "Like")).to_have_attribute("title", "Like (key u)")
