"""`make screenshots`: docs/images from a demonstration (`thumbloop demo`), in Chromium.

Every page in light and dark, on a desktop and a phone, goes to build/screenshots.

python -m tests.browser.screenshots [MODEL]     without MODEL: the default model, a few minutes
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

from app.pages.admin.frame import PAGES
from storage.settings.serving import DEFAULT_MODEL
from tests.support import REPOSITORY
from tests.support.chatting import FLAGS, PHONE, chromium_path, new_chat, send_and_wait, thumb
from tests.support.command_line import PROGRAM, CommandLine
from tests.support.live_server import LiveServer

IMAGES = REPOSITORY / "docs" / "images"
EVERY = REPOSITORY / "build" / "screenshots"
PATIENCE_MS = 900_000
# What the tests' servers have otherwise, as the defaults are.
SETTINGS: dict[str, object] = {
    "schedule": "0 3 * * *",
    "precision": "auto",
    "max_new_tokens": 64,
    "learning_rate": 2e-4,
    "lora_rank": 16,
    "seed": 1,
}


def main(model: str) -> None:
    path = chromium_path()
    if path is None:
        sys.exit("Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path.")
    expect.set_options(timeout=PATIENCE_MS)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        command = CommandLine(Path(folder) / "data", Path(model))
        command.settings |= SETTINGS
        words = [*PROGRAM, "demo", str(command.data_dir), "--no-serve"]
        subprocess.run(words, env=command.environment, check=True)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        place = {"data_dir": command.data_dir, "model": model, "executor": "local"}
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
    page.set_viewport_size({"width": 1280, "height": 1020})
    page.goto(f"{server.url}/admin/")
    take(page, "admin.png")


def take_feedback(page: Page, server: LiveServer) -> None:
    """With the conversation of a vote."""
    page.set_viewport_size({"width": 1280, "height": 860})
    page.goto(f"{server.url}/admin/feedback?has_comment=true")
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
            tab.goto(f"{server.url}/admin/training")
            run = tab.get_by_role("link", name="The newest run").get_attribute("href")
            for address in ("/", *PAGES, "/admin/feedback/themes", "/admin/versions/compare", run):
                tab.goto(f"{server.url}{address}")
                tab.wait_for_timeout(500)  # until the chat is drawn
                name = "admin-run" if address == run else address.strip("/").replace("/", "-") or "chat"
                tab.screenshot(path=EVERY / f"{name}-{kind}-{scheme}.png")
            tab.close()


def take(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(1000)  # until what moves and fades has come to rest
    page.screenshot(path=IMAGES / name)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
