"""Replies of another server as fast as they come: where the reader stays, and the titles that it writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.support.chatting import OpenPage, new_chat, send_and_wait
from tests.support.live_server import LiveServer
from tests.support.scripted_models import Script, asked


def answer(body: dict[str, Any]) -> str:
    if asked(body).startswith("Write a title"):
        return "“Of long rivers.”" if "river" in asked(body) else "This one goes on and on " * 9
    if "much" not in asked(body):
        return "A word or two."
    return "\n\n".join(f"Paragraph {number} has words enough for a line." for number in range(1, 90))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    with Script({"theirs": answer}, pace=0.02).served() as address:
        theirs = {"backend": "openai", "openai_base_url": address, "openai_model": "theirs"}
        folder = tmp_path_factory.mktemp("fast") / "data"
        settings = {**theirs, "model": tiny_model, "model_titles": True, "max_new_tokens": 2000}
        with LiveServer({"data_dir": folder, **settings}) as server:
            yield server


def test_the_model_gives_a_chat_its_title_unless_a_person_did(
    server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(server.url)
    listed = page.get_by_role("navigation", name="Your chats").get_by_role("link")
    send_and_wait(page, "Of a river")
    expect(listed).to_have_text(["Of long rivers"])
    expect(page).to_have_title("Of long rivers · Thumbloop")
    page.get_by_label("Rename, export or delete: Of long rivers").click()
    page.get_by_role("textbox", name="Title").fill("Mine")
    page.get_by_role("button", name="Rename").click()
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="Earlier reply")).to_be_visible()
    new_chat(page)
    send_and_wait(page, "Of a river again")
    expect(listed).to_have_text(["Of long rivers", "Mine"])
    new_chat(page)
    send_and_wait(page, "Of hills")
    send_and_wait(page, "Of hills again")
    expect(listed).to_have_text(["Of hills", "Of long rivers", "Mine"])
