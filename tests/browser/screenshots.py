"""`make screenshots`: docs/images from a real run. Chats, votes, trains a version, and takes the pictures.

Every page in light and dark, on a desktop and a phone, goes to build/screenshots.

python -m tests.browser.screenshots [MODEL]     without MODEL: the default model, a few minutes
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from app.pages.admin.frame import PAGES
from storage.settings.serving import DEFAULT_MODEL
from tests.support import REPOSITORY
from tests.support.chatting import FLAGS, PHONE, chromium_path, new_chat, send_and_wait, thumb
from tests.support.http_loop import chat_once, vote
from tests.support.live_server import LiveServer

IMAGES = REPOSITORY / "docs" / "images"
EVERY = REPOSITORY / "build" / "screenshots"
PATIENCE_MS = 900_000
SETTINGS: dict[str, object] = {
    "schedule": "0 3 * * *",
    "precision": "auto",
    "max_new_tokens": 64,
    "learning_rate": 5e-5,
    "lora_rank": 16,
    "seed": 1,
}
QUESTIONS = [
    "Why is the sky blue?",
    "Name three rivers in Europe.",
    "How do I boil an egg?",
    "Write a haiku about rain.",
    "What is a prime number?",
    "Give me a tip for learning to cook.",
    "What does a compiler do?",
    "Explain tides to a child.",
    "Which planet has the most moons?",
    "How do bees make honey?",
    "What is the capital of Norway?",
    "Suggest a name for a sailing boat.",
    "How long does light take from the sun to us?",
    "What is a good breakfast for a hiker?",
    "Translate good morning into French.",
    "What is the difference between weather and climate?",
    "Give me three words that rhyme with tree.",
    "Who wrote Don Quixote?",
    "How do I keep basil alive?",
    "What does an orchestra's conductor do?",
]


def main(model: str) -> None:
    path = chromium_path()
    if path is None:
        sys.exit("Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path.")
    expect.set_options(timeout=PATIENCE_MS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        place = {"data_dir": Path(folder) / "data", "model": model, "executor": "local"}
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        with LiveServer(SETTINGS | place) as server, browser:
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.set_default_timeout(PATIENCE_MS)
            page.goto(server.admin_link())
            take_chat(page, server)
            take_admin(page, server)
            take_feedback(page, server)
            take_every_page(page, server)


def take_chat(page: Page, server: LiveServer) -> None:
    """Two chats in the list, one of them open with a vote of each kind."""
    page.goto(f"{server.url}/?chat=new")
    send_and_wait(page, "Suggest a name for a small book shop by the sea.")
    new_chat(page)
    send_and_wait(page, "What should I look at in the night sky this week?")
    thumb(page, "Dislike").click()
    send_and_wait(page, "Please say it in one sentence.")
    thumb(page, "Like").click()
    expect(thumb(page, "Like")).to_have_attribute("aria-pressed", "true")
    take(page, "chat.png")


def take_admin(page: Page, server: LiveServer) -> None:
    """After one run, and while a second one trains."""
    with server.client() as client:
        for question in QUESTIONS:
            reply = chat_once(client, question)
            # Somebody who likes replies that come to an end.
            vote(client, reply["message_id"], reply["finish_reason"] == "stop")
    page.set_viewport_size({"width": 1280, "height": 1020})
    page.goto(f"{server.url}/admin/training")
    page.get_by_role("button", name="Train now").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.locator("[data-live]")).to_contain_text("The newest run")
    page.get_by_role("button", name="Train now").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("[4-9]."))
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile("[4-9]."))
    take(page, "admin.png")


def take_feedback(page: Page, server: LiveServer) -> None:
    """With the conversation of a vote."""
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"{server.url}/admin/feedback")
    page.locator("main li a").nth(1).click()
    expect(page.locator("article")).to_be_visible()
    take(page, "feedback.png")


def take_every_page(page: Page, server: LiveServer) -> None:
    EVERY.mkdir(parents=True, exist_ok=True)
    browser, state = page.context.browser, page.context.storage_state()
    assert browser is not None
    for kind, size in (("desktop", {"viewport": {"width": 1280, "height": 860}}), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            options: dict[str, Any] = {**size, "color_scheme": scheme, "storage_state": state}
            tab = browser.new_page(**options)
            for address in ("/", *PAGES, "/admin/feedback/themes", "/admin/versions/compare"):
                tab.goto(f"{server.url}{address}")
                tab.wait_for_timeout(500)  # until the chat is drawn
                name = address.strip("/").replace("/", "-") or "chat"
                tab.screenshot(path=EVERY / f"{name}-{kind}-{scheme}.png")
            tab.close()


def take(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # until what moves and fades has come to rest
    page.screenshot(path=IMAGES / name)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
