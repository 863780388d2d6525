"""What a person does on the chat page, in one place for the tests and the screenshots."""

import os
import re
import shutil
from collections.abc import Callable
from contextlib import closing

from playwright.sync_api import Locator, Page, Route, expect

from storage.db.database import Database
from storage.db.tables import Message
from tests.support.live_server import LiveServer

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT_MS = 60_000  # only bounds a failure
OpenPage = Callable[..., Page]
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
NARROW = {**PHONE, "viewport": {"width": 320, "height": 640}}  # as wide as 640 px are at 200 % zoom
# Notes every length that the newest reply's text had.
WATCH = """() => {
  window.lengths = [];
  new MutationObserver(() => {
    const replies = document.querySelectorAll('.bot-row .message-content');
    const length = replies.length ? replies[replies.length - 1].innerText.length : 0;
    if (length && length !== window.lengths.at(-1)) window.lengths.push(length);
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def send(page: Page, text: str) -> None:
    box(page).fill(text)
    page.get_by_role("button", name="Send").click()


def send_and_wait(page: Page, text: str) -> None:
    """Send and wait until the reply can be voted on."""
    before = page.locator("[data-message]").count()
    send(page, text)
    expect(page.locator("[data-message]")).to_have_count(before + 1)


def new_chat(page: Page) -> None:
    """Open a new chat and wait until the last one's replies are gone: `send_and_wait` counts from there."""
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("[data-message]")).to_have_count(0)


def wait_for_text(page: Page, reply: int = 0) -> None:
    """Until some of a reply is there."""
    expect(page.locator(".bot-row .message-content").nth(reply)).to_have_text(re.compile(r"\S"))


def assert_fits(page: Page) -> None:
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, f"the page is {overflow} px too wide"


def hold_next(page: Page, pattern: str) -> list[Route]:
    """The list gets the next request for such an address, which waits for its `continue_`."""
    held: list[Route] = []
    page.route(pattern, lambda route: route.continue_() if held else held.append(route))
    return held


def stop_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Stop")


def thumb(page: Page, name: str, reply: int = -1) -> Locator:
    return page.get_by_role("button", name=name, exact=True).nth(reply)


def expect_vote(page: Page, label: bool | None, reply: int = -1) -> None:
    for name, pressed in (("Like", label is True), ("Dislike", label is False)):
        expect(thumb(page, name, reply)).to_have_attribute("aria-pressed", str(pressed).lower())


def reply_text(page: Page) -> str:
    return page.locator(".bot-row .message-content").last.inner_text()


def chat_id(page: Page) -> str:
    """The chat that the address names; the page changes it without a navigation."""
    return str(page.evaluate("new URLSearchParams(location.search).get('chat')"))


def stored_messages(page: Page, origin: str) -> list[dict[str, object]]:
    """The open chat as the API gives it to the same person."""
    response = page.request.get(f"{origin}/api/v1/chats/{chat_id(page)}")
    assert response.ok, response.text()
    messages: list[dict[str, object]] = response.json()["messages"]
    return messages


def with_replies(page: Page, server: LiveServer, replies: list[str]) -> None:
    """Let the open chat go on with these replies."""
    chat = chat_id(page)
    parent_id = str(stored_messages(page, server.url)[-1]["id"])
    with closing(Database(server.settings.database_address)) as database, database.write() as session:
        for content in replies:
            for role in ("user", "assistant"):
                message = Message(chat_id=chat, parent_id=parent_id, role=role, content=content)
                session.add(message)
                session.flush()
                parent_id = message.id


def chromium_path() -> str | None:
    """The browser that CHROMIUM names, or the system's."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium")
