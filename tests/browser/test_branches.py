"""What was regenerated or edited away stays within reach: read, voted on, and gone on from."""

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.support.chatting import (
    PHONE,
    OpenPage,
    assert_fits,
    box,
    chat_id,
    expect_vote,
    new_chat,
    send_and_wait,
    stored_messages,
    thumb,
)
from tests.support.live_server import LiveServer


def arrow(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def regenerate(page: Page) -> None:
    last = page.locator("[data-message]").last
    before = last.get_attribute("data-message")
    page.get_by_role("button", name="Regenerate").click()
    expect(last).not_to_have_attribute("data-message", before or "")


def shown(page: Page) -> list[str | None]:
    return [one.get_attribute("data-message") for one in page.locator("[data-message]").all()]


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_an_earlier_reply_is_voted_on_and_gone_on_from(
    chat_server: LiveServer, open_page: OpenPage, kind: str
) -> None:
    page = open_page(chat_server.url, **(PHONE if kind == "phone" else {}))
    send_and_wait(page, "Hello")
    (first,) = shown(page)
    expect(arrow(page, "Earlier reply")).to_have_count(0)
    regenerate(page)
    (second,) = shown(page)
    expect(page.get_by_text("2/2", exact=True)).to_be_visible()
    expect(arrow(page, "Later reply")).to_be_disabled()
    thumb(page, "Dislike").click()
    expect_vote(page, False)

    arrow(page, "Earlier reply").click()
    expect(page.locator(f'[data-message="{first}"]')).to_be_visible()
    expect(page.get_by_text("1/2", exact=True)).to_be_visible()
    expect(arrow(page, "Earlier reply")).to_be_disabled()
    expect(arrow(page, "Later reply")).to_be_focused()
    expect_vote(page, None)
    thumb(page, "Like").click()
    expect_vote(page, True)
    assert_fits(page)

    send_and_wait(page, "And then?")
    assert shown(page)[0] == first
    path = stored_messages(page, chat_server.url)
    assert path[1]["id"] == first, "the newest message is below the earlier reply"
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(2)
    assert shown(page)[0] == first
    expect_vote(page, True, reply=0)

    arrow(page, "Later reply").click()
    expect(page.locator(f'[data-message="{second}"]')).to_be_visible()
    expect(page.locator("[data-message]")).to_have_count(1)
    expect_vote(page, False)
    regenerate(page)
    expect(page.get_by_text("3/3", exact=True)).to_be_visible()


def test_an_earlier_wording_of_a_message_comes_back_with_its_reply(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "One")
    (first,) = shown(page)
    page.get_by_role("button", name="Edit message").click()
    box(page).fill("One, edited")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".tl-text")).to_have_text(["One, edited"])
    expect(page.locator(f'[data-message]:not([data-message="{first}"])')).to_have_count(1)

    arrow(page, "Earlier message").click()
    expect(page.locator(".tl-text")).to_have_text(["One"])
    expect(page.locator(f'[data-message="{first}"]')).to_be_visible()
    arrow(page, "Later message").press("Enter")
    expect(page.locator(".tl-text")).to_have_text(["One, edited"])


def test_another_chat_is_opened_at_its_newest_message(page: Page) -> None:
    regenerate(page)
    (second,) = shown(page)
    arrow(page, "Earlier reply").click()
    expect(page.get_by_text("1/2", exact=True)).to_be_visible()
    first_chat = chat_id(page)
    new_chat(page)
    send_and_wait(page, "Something else")
    page.locator(f'[data-chat="{first_chat}"]').click()
    expect(page.locator(f'[data-message="{second}"]')).to_be_visible()
