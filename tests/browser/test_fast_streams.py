"""Replies of another server as fast as they come: where the reader stays, and the titles that it writes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.axe import violations
from tests.support.chatting import (
    PHONE,
    OpenPage,
    assert_fits,
    chat_id,
    expect_vote,
    new_chat,
    send,
    send_and_wait,
    stop_button,
    thumb,
)
from tests.support.live_server import LiveServer
from tests.support.scripted_models import Script, asked


def answer(body: dict[str, Any]) -> str:
    if asked(body).startswith("Write a title"):
        return "“Of long rivers.”" if "river" in asked(body) else "This one goes on and on " * 9
    if "much" not in asked(body):
        return "A word or two."
    return "\n\n".join(f"This is paragraph {number}." for number in range(1, 120))


@pytest.fixture(scope="module")
def script() -> Script:
    return Script({"theirs": answer}, pace=0.02)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, script: Script
) -> Iterator[LiveServer]:
    with script.served() as address:
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


def test_a_chat_has_its_own_system_prompt_and_sampling(
    server: LiveServer, script: Script, open_page: OpenPage
) -> None:
    page = open_page(server.url, viewport={"width": 320, "height": 640})
    page.get_by_role("button", name="Chat settings").click()
    settings = page.get_by_role("dialog", name="Chat settings")
    expect(settings.get_by_label("Temperature")).to_have_attribute("placeholder", "0.7")
    settings.get_by_label("System prompt").fill("Answer as a sailor.")
    settings.get_by_label("Temperature").fill("0.25")
    assert violations(page) == []
    assert_fits(page)
    settings.get_by_role("button", name="Save").click()
    own = page.get_by_role("button", name="Chat settings, changed for this chat")
    expect(own).to_be_visible()
    script.answered.clear()
    send_and_wait(page, "Of boats")
    thumb(page, "Like").click()
    expect_vote(page, True)

    own.click()
    expect(settings.get_by_label("System prompt")).not_to_be_editable()
    expect(settings.get_by_label("Temperature")).to_have_value("0.25")
    settings.get_by_label("Temperature").fill("")
    settings.get_by_label("Top p").fill("0.5")
    settings.get_by_role("button", name="Save").click()
    expect(settings).to_be_hidden()
    expect(own).to_have_attribute("data-settings", re.compile('"top_p": 0.5'))
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_role("button", name="Earlier reply")).to_be_enabled()
    asked_for = [body for body in script.answered if asked(body) == "Of boats"]
    system = {"role": "system", "content": "Answer as a sailor."}
    assert [body["messages"][0] for body in asked_for] == [system, system]
    assert [(body["temperature"], body["top_p"]) for body in asked_for] == [(0.25, 0.9), (0.7, 0.5)]
    with server.client() as client:
        example = client.get("/api/v1/examples").json()["items"][0]
        assert example["prompt"][0] == system
    text = page.request.get(f"{server.url}/api/v1/chats/{chat_id(page)}/export").text()
    assert "**System prompt**\n\nAnswer as a sailor." in text
    page.get_by_role("button", name="Chats", exact=True).click()
    new_chat(page)
    expect(page.get_by_role("button", name="Chat settings", exact=True)).to_be_visible()


# How far the end is below what is seen, and where the reader is, in pixels.
PLACE = """() => {
  const box = document.querySelector('#tl-transcript .bubble-wrap');
  return [box.scrollHeight - box.clientHeight - box.scrollTop, box.scrollTop];
}"""
# Waits for more of the reply: by so many lines.
GROWN = """([before, lines]) =>
  document.querySelector('#tl-transcript .bubble-wrap').scrollHeight > before + 24 * lines"""


def grow(page: Page, lines: int = 12) -> None:
    """Wait until the reply is so many lines longer."""
    height = page.evaluate("document.querySelector('#tl-transcript .bubble-wrap').scrollHeight")
    page.wait_for_function(GROWN, arg=[height, lines])


def wheel(page: Page) -> None:
    page.locator("#tl-transcript .bubble-wrap").hover()
    page.mouse.wheel(0, -120)


def page_up(page: Page) -> None:
    page.mouse.click(700, 300)  # a reader's last click, by which the keys scroll the transcript
    page.keyboard.press("PageUp")


def swipe(page: Page) -> None:
    touch = page.context.new_cdp_session(page)
    moves = [("touchStart", 300), *(("touchMove", y) for y in range(310, 460, 10)), ("touchEnd", None)]
    for kind, y in moves:
        points = [{"x": 180, "y": y}] if y is not None else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.mark.parametrize("scroll", [wheel, page_up, swipe])
def test_who_scrolled_up_is_not_moved_and_who_is_at_the_end_stays_there(
    server: LiveServer, open_page: OpenPage, scroll: Callable[[Page], None]
) -> None:
    page = open_page(server.url, **(PHONE if scroll is swipe else {}))
    send(page, "Say much")
    page.wait_for_function(GROWN, arg=[0, 45])
    for _ in range(3):
        grow(page, 3)
        assert page.evaluate(PLACE)[0] < 100
    scroll(page)
    grow(page, 12)  # the scrolling is smooth, and takes a moment
    below, place = page.evaluate(PLACE)
    assert below > 100
    for _ in range(3):
        grow(page, 4)
        assert abs(page.evaluate(PLACE)[1] - place) <= 1
    page.locator("#tl-transcript .bubble-wrap").evaluate("box => box.scrollTo(0, box.scrollHeight)")
    grow(page, 4)
    assert page.evaluate(PLACE)[0] < 100
    stop_button(page).click()
    expect(page.locator("[data-message]")).to_have_count(1)
