"""Two replies side by side on the chat page: unlabelled, in random order, and votes for both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.axe import violations
from tests.support.chatting import PHONE, OpenPage, assert_fits, send_and_wait
from tests.support.live_server import LiveServer

ASK = "Which of two replies is better?"
TITLE = "Which reply is better?"


@pytest.fixture(scope="module")
def asking_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("pairs") / "data"
    with LiveServer({"data_dir": folder, "model": tiny_model, "compare_share": 1}) as server:
        yield server


def open_pair(page: Page) -> Locator:
    page.get_by_role("button", name="Compare with another reply").click()
    dialog = page.get_by_role("dialog", name=TITLE)
    expect(dialog.get_by_role("button", name="Left")).to_be_enabled()
    return dialog


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_better_and_worse_become_a_thumb_each(
    chat_server: LiveServer, open_page: OpenPage, kind: str
) -> None:
    page = open_page(chat_server.url, **(PHONE if kind == "phone" else {}))
    send_and_wait(page, "Hello")
    dialog = open_pair(page)
    expect(dialog).not_to_contain_text("v1")
    assert violations(page) == []
    assert_fits(page)
    right = dialog.get_by_role("region", name="Right").inner_text()
    dialog.get_by_role("button", name="Right").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("2/2").or_(page.get_by_text("1/2"))).to_be_visible()
    expect(page.get_by_role("button", name="Like", exact=True)).to_have_attribute("aria-pressed", "true")
    copied = page.locator("[data-copy]").last.get_attribute("data-copy") or ""
    assert copied.split() == right.split()
    page.locator("[data-show]:not([disabled])").click()
    expect(page.get_by_role("button", name="Dislike")).to_have_attribute("aria-pressed", "true")


def test_both_bad_are_two_thumbs_down_and_a_tie_is_no_vote(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "Hello")
    open_pair(page).get_by_role("button", name="Equally good").click()
    expect(page.get_by_title("reply 1 of 2").or_(page.get_by_title("reply 2 of 2"))).to_be_visible()
    expect(page.get_by_role("button", name="Like", exact=True)).to_have_attribute("aria-pressed", "false")
    open_pair(page).get_by_role("button", name="Both bad").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Dislike")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.get_by_text("/3")).to_be_visible()


def test_a_refusal_is_shown_and_the_chat_goes_on(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "Hello")

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": {"code": "busy", "message": "Too many replies."}})

    page.route("**/regenerate*", refuse)
    page.get_by_role("button", name="Compare with another reply").click()
    dialog = page.get_by_role("dialog", name=TITLE)
    expect(dialog.get_by_role("alert")).to_have_text("Too many replies.")
    expect(dialog.get_by_role("button", name="Left")).to_be_disabled()
    dialog.get_by_role("button", name="Cancel").click()
    send_and_wait(page, "Again")


def test_the_setting_asks_below_every_second_reply(asking_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(asking_server.url)
    for asked in (1, 0, 1):
        send_and_wait(page, "Hello")
        expect(page.get_by_role("button", name=ASK)).to_have_count(asked)
    page.get_by_role("button", name=ASK).click()
    expect(page.get_by_role("dialog", name=TITLE).get_by_role("button", name="Left")).to_be_enabled()
