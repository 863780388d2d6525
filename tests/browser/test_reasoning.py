"""Reasoning on the chat page: folded, and once unfolded it stays so while it is written."""

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
    settings = {"data_dir": folder / "data", "model": folder / "model", "max_new_tokens": 100_000}
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
