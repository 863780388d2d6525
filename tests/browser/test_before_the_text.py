"""What stands in the place of a reply before its text: its place in the queue, then its reasoning."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.chat_templates import R1
from tests.support.chatting import OpenPage, send, stop_button
from tests.support.live_server import LiveServer


@pytest.fixture(scope="module")
def thinking_server(tmp_path_factory: pytest.TempPathFactory, endless_model: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("thinking")
    shutil.copytree(endless_model, folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(R1)
    settings = {
        "data_dir": folder / "data",
        "model": folder / "model",
        "max_new_tokens": 100_000,
        "max_concurrent_replies": 1,
    }
    with LiveServer(settings) as server:
        yield server


def test_reasoning_that_was_unfolded_stays_so_while_it_is_written(
    thinking_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(thinking_server.url)
    send(page, "Think")
    reasoning, summary = page.locator(".tl-reasoning"), page.get_by_text("Thinking…")
    expect(summary).to_be_visible()
    expect(reasoning).not_to_have_attribute("open", "")

    def wait_for_updates() -> None:
        """Until it was drawn three times more."""
        for _ in range(3):
            written = reasoning.locator("p").text_content() or ""
            expect(reasoning.locator("p")).not_to_have_text(written, use_inner_text=False)

    summary.click()
    wait_for_updates()
    expect(reasoning).to_have_attribute("open", "")
    expect(summary).to_be_focused()
    page.keyboard.press("Enter")
    wait_for_updates()
    expect(reasoning).not_to_have_attribute("open", "")
    page.keyboard.press("Enter")
    stop_button(page).click()
    expect(page.get_by_text("Reasoning", exact=True)).to_be_visible()
    expect(reasoning).to_have_attribute("open", "")


def test_a_reply_that_waits_says_its_place(thinking_server: LiveServer, open_page: OpenPage) -> None:
    pages = [open_page(thinking_server.url) for _ in range(3)]
    send(pages[0], "First")
    expect(pages[0].get_by_text("Thinking…")).to_be_visible()
    for page, place in zip(pages[1:], ("next in line", "number 2 in line"), strict=True):
        send(page, "Later")
        expect(page.locator("#tl-transcript")).to_contain_text(re.compile(rf"{place}, about \d+ s"))
    stop_button(pages[0]).click()
    expect(pages[1].get_by_text("Thinking…")).to_be_visible()
    expect(pages[2].get_by_text("next in line")).to_be_visible()
    for page in pages[1:]:
        stop_button(page).click()
        expect(stop_button(page)).to_have_count(0)
