"""By keyboard alone: the first vote; and two people at once, who see nothing of each other."""

from playwright.sync_api import Page, expect

from tests.support.chatting import OpenPage, expect_vote, send_and_wait, stored_messages, thumb
from tests.support.live_server import LiveServer

MOST_TABS = 40


def tab_to(page: Page, name: str) -> None:
    for _ in range(MOST_TABS):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.getAttribute('aria-label')") == name:
            return
    raise AssertionError(f"{name} is not reached by {MOST_TABS} tabs")


def test_the_first_vote(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()
    page.keyboard.type("Hello")
    page.keyboard.press("Enter")
    expect(thumb(page, "Like")).to_be_visible()
    tab_to(page, "Like")
    page.keyboard.press("Enter")
    expect_vote(page, True)
    assert [one["vote"] is not None for one in stored_messages(page, chat_server.url)][-1]


def test_two_people_at_once(chat_server: LiveServer, open_page: OpenPage) -> None:
    pages = [open_page(chat_server.url) for _ in range(2)]
    for number, page in enumerate(pages):
        page.get_by_role("textbox", name="Message").fill(f"I am person {number}")
        page.keyboard.press("Enter")
    for page in pages:
        expect(thumb(page, "Dislike")).to_be_visible()
    thumb(pages[0], "Dislike").click()
    expect_vote(pages[0], False)
    pages[1].reload()
    expect_vote(pages[1], None)
    for number, page in enumerate(pages):
        expect(page.locator("[data-sent]")).to_have_count(1)
        expect(page.locator("[data-sent]")).to_contain_text(f"I am person {number}")
        expect(page.locator("#tl-chats")).not_to_contain_text(f"person {1 - number}")
    send_and_wait(pages[1], "Again")
    expect(pages[0].locator("[data-message]")).to_have_count(1)
