"""What is said with a vote on the chat page: tags, a comment, a correction; consent and copies beside it."""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.support.chatting import (
    OpenPage,
    chat_id,
    expect_vote,
    hold_next,
    new_chat,
    send,
    send_and_wait,
    stored_messages,
    thumb,
    wait_for_text,
)
from tests.support.live_server import LiveServer, StartServer, wait_until

HEIGHT = "box => box.scrollHeight"
# Notes whether the last press was on "Say more…".
WATCH_PRESSES = """addEventListener(
  'pointerdown', ({ target }) => { window.hit = !!target.closest('[data-more]'); }, true)"""


def stored_vote(page: Page, server: LiveServer, reply: int = -1) -> dict[str, Any]:
    vote = stored_messages(page, server.url)[reply]["vote"]
    assert isinstance(vote, dict)
    return vote


def vote_content(page: Page, server: LiveServer) -> tuple[object, ...]:
    vote = stored_vote(page, server)
    return vote["label"], vote["tags"], vote["comment"], vote["correction"]


def tag(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True).last


def say_more(page: Page, comment: str, correction: str = "") -> None:
    tag(page, "Say more…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_in_viewport(ratio=1)
    dialog.get_by_label("Comment").fill(comment)
    dialog.get_by_label("What should it have said?").fill(correction)
    dialog.get_by_role("button", name="Save").click()


def own(page: Page, name: str) -> Locator:
    """The text as the page shows it below the reply."""
    return page.locator(f"[data-text={name}]").last


def middle(shown: Locator) -> tuple[float, float]:
    box = shown.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def hold(page: Page, more: Locator) -> None:
    """Hold the pointer down on it, though the transcript may have moved it away just before."""
    page.evaluate(WATCH_PRESSES)
    more.hover()
    page.mouse.down()
    while not page.evaluate("window.hit"):
        page.mouse.up()
        more.hover()
        page.mouse.down()


DESKTOP_AND_PHONE = pytest.mark.parametrize("page", ["desktop", "phone"], indirect=True)


@DESKTOP_AND_PHONE
def test_tags_comment_and_correction_are_changes_of_the_same_vote(
    page: Page, chat_server: LiveServer
) -> None:
    expect(page.get_by_role("group", name="Reasons")).not_to_be_visible()
    thumb(page, "Dislike").click()
    expect_vote(page, False)
    assert vote_content(page, chat_server) == (False, [], None, None)  # the bare thumb counts at once
    first = stored_vote(page, chat_server)["revision"]
    expect(tag(page, "unclear")).to_be_visible()
    expect(page.locator("[data-tag=clear]").last).not_to_be_visible()  # a reason for a thumb up

    for name in ("unclear", "too long", "wrong"):  # not the order they are shown in
        tag(page, name).click()
        expect(tag(page, name)).to_have_attribute("aria-pressed", "true")
    tag(page, "too long").click()
    expect(tag(page, "too long")).to_have_attribute("aria-pressed", "false")
    say_more(page, "No <b>greeting</b>\n&amp; no name", "\nHello, Ada!")
    expect(page.get_by_role("dialog")).not_to_be_visible()
    expected = (False, ["unclear", "wrong"], "No <b>greeting</b>\n&amp; no name", "Hello, Ada!")
    assert vote_content(page, chat_server) == expected
    assert stored_vote(page, chat_server)["revision"] > first

    page.reload()
    expect_vote(page, False)
    expect(tag(page, "wrong")).to_have_attribute("aria-pressed", "true")
    expect(own(page, "comment")).to_have_text("No <b>greeting</b>\n&amp; no name", use_inner_text=True)
    expect(own(page, "correction")).to_be_visible()
    tag(page, "Say more…").click()
    expect(page.get_by_label("What should it have said?")).to_have_value("Hello, Ada!")
    page.get_by_label("Comment").fill("Half a")
    page.keyboard.press("Escape")
    tag(page, "Say more…").click()
    expect(page.get_by_label("Comment")).to_have_value("Half a")  # Escape threw nothing away
    page.get_by_label("Comment").fill(str(expected[2]))
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)

    thumb(page, "Like").click()  # another thumb keeps what was said
    expect_vote(page, True)
    assert vote_content(page, chat_server) == (True, ["wrong", "unclear"], *expected[2:]), "as they are shown"
    expect(tag(page, "clear")).to_be_visible()
    expect(tag(page, "wrong")).to_be_visible()  # it was chosen
    expect(page.locator('[data-tag="too long"]').last).not_to_be_visible()
    thumb(page, "Like").click()
    expect_vote(page, None)
    assert stored_messages(page, chat_server.url)[-1]["vote"] is None
    expect(page.get_by_role("group", name="Reasons")).not_to_be_visible()


def test_a_change_that_waits_for_another_is_stored_though_its_chat_is_left(
    page: Page, chat_server: LiveServer
) -> None:
    address = f"{chat_server.url}/api/v1/chats/{chat_id(page)}"
    thumb(page, "Dislike").click()
    expect_vote(page, False)
    held = hold_next(page, "**/vote")
    with page.expect_request("**/vote"):
        tag(page, "wrong").click()
    tag(page, "unclear").click()
    new_chat(page)
    held[0].continue_()
    wait_until(
        lambda: page.request.get(address).json()["messages"][-1]["vote"]["tags"] == ["wrong", "unclear"]
    )


@DESKTOP_AND_PHONE
def test_reasons_of_the_last_reply_stand_above_the_composer(page: Page) -> None:
    """They come below the thumbs, where a full transcript ends."""
    assert page.viewport_size is not None
    page.set_viewport_size({"width": page.viewport_size["width"], "height": 460})
    send_and_wait(page, "A question\nof\nsome\nlines")
    send_and_wait(page, "And\nanother")
    page.mouse.move(*middle(thumb(page, "Dislike")))
    page.mouse.wheel(0, 5000)

    def stands_above(row: Locator) -> bool:
        shown, composer = row.bounding_box(), page.locator("#tl-composer").bounding_box()
        assert composer is not None
        return shown is not None and shown["y"] + shown["height"] <= composer["y"]

    thumb(page, "Dislike").click()
    wait_until(lambda: stands_above(page.get_by_role("group", name="Reasons")))
    say_more(page, "A comment\nof\nthree lines", "And a correction")
    wait_until(lambda: stands_above(own(page, "correction")))


def test_all_of_it_by_keyboard(page: Page, chat_server: LiveServer) -> None:
    thumb(page, "Dislike").focus()
    page.keyboard.press("Enter")
    expect_vote(page, False)
    page.keyboard.press("Tab")
    expect(tag(page, "wrong")).to_be_focused()
    page.keyboard.press("Space")
    expect(tag(page, "wrong")).to_have_attribute("aria-pressed", "true")
    for _ in range(6):  # the other five tags, then "Say more"
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Comment")).to_be_focused()
    page.keyboard.type("Rude.")
    page.keyboard.press("Tab")
    page.keyboard.type("Good day.")
    page.keyboard.press("Tab")  # over Cancel
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(tag(page, "Say more…")).to_be_focused()
    assert vote_content(page, chat_server) == (False, ["wrong"], "Rude.", "Good day.")


def test_a_vote_is_shown_as_cast_while_the_next_reply_streams(
    talkative_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talkative_server.url)
    send_and_wait(page, "Hello")
    send(page, "And another")
    wait_for_text(page, 1)
    thumb(page, "Like", 0).click()
    expect_vote(page, True, 0)
    more = page.get_by_role("button", name="Say more…").first
    hold(page, more)
    place, height = more.bounding_box(), page.locator(".bubble-wrap").evaluate(HEIGHT)
    wait_until(lambda: page.locator(".bubble-wrap").evaluate(HEIGHT) > height)
    assert more.bounding_box() == place, "the transcript follows the reply again once the button is let go"
    page.mouse.up()
    page.get_by_label("Comment").press_sequentially("typed while the next reply comes", delay=10)
    expect(page.locator("[data-message]")).to_have_count(2)
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("[data-text=comment]").first).to_have_text("typed while the next reply comes")
    expect_vote(page, True, 0)
    page.reload()
    expect(page.locator("[data-text=comment]").first).to_have_text("typed while the next reply comes")


def test_refused_words_are_said_and_stay_to_be_shortened(page: Page, chat_server: LiveServer) -> None:
    thumb(page, "Like").click()
    expect_vote(page, True)
    say_more(page, "x" * 2001)
    expect(page.get_by_role("alert")).to_contain_text("2001 characters")
    expect(page.get_by_label("Comment")).to_have_value("x" * 2001)
    page.get_by_role("button", name="Cancel").click()
    assert vote_content(page, chat_server) == (True, [], None, None)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_consent_is_the_chats_own(page: Page, chat_server: LiveServer) -> None:
    def stored() -> object:
        response = page.request.get(f"{chat_server.url}/api/v1/chats/{chat_id(page)}")
        return response.json()["consent"]

    switch = page.get_by_label("May be used for training")
    expect(switch).to_be_checked()
    assert stored() is True
    thumb(page, "Like").click()
    expect_vote(page, True)
    untrained = page.get_by_text("not trained on")
    expect(untrained).not_to_be_visible()
    switch.uncheck()
    expect(untrained).to_be_visible()
    wait_until(lambda: stored() is False)
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(1)
    expect(switch).not_to_be_checked()

    page.get_by_role("button", name="Chats").click()
    expect(page.get_by_role("button", name="New chat")).to_be_in_viewport(ratio=1)
    new_chat(page)
    expect(switch).to_be_checked()  # each chat has its own
    switch.uncheck()
    send_and_wait(page, "Not for training")
    expect(switch).not_to_be_checked()
    assert stored() is False


@pytest.mark.parametrize("default", [True, False], ids=["taken back", "given"])
def test_consent_is_right_even_where_the_click_on_it_comes_after_the_message(
    chat_server: LiveServer, start_server: StartServer, open_page: OpenPage, default: bool
) -> None:
    server = chat_server if default else start_server(consent_default=False)
    page = open_page(server.url)
    switch = page.get_by_label("May be used for training")
    expect(switch).to_be_checked(checked=default)
    held: list[Route] = []

    def hold_the_click(route: Route) -> None:
        """Nothing else of the page, which may still be loading, sends just this."""
        given = (route.request.post_data_json or {})["data"] == [not default, None]
        held.append(route) if given and not held else route.continue_()

    page.route("**/queue/join*", hold_the_click)
    switch.click()
    send_and_wait(page, "Remember this")
    assert held

    def stored() -> bool:
        consent = page.request.get(f"{server.url}/api/v1/chats/{chat_id(page)}").json()["consent"]
        assert isinstance(consent, bool)
        return consent

    assert stored() is False  # not before both the page and the person say so
    held[0].continue_()
    if default:
        switch.click()  # the end of this event is that of the one before
        wait_until(stored)
        switch.click()
        wait_until(lambda: not stored())
    else:
        wait_until(stored)
        expect(switch).to_be_checked()


def test_the_box_waits_until_the_page_knows_its_chat(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url).context.new_page()
    held = hold_next(page, "**/queue/join*")
    page.goto(chat_server.url)
    switch = page.get_by_label("May be used for training")
    expect(switch).not_to_be_visible()
    wait_until(lambda: page.evaluate("true") and held)  # asking the page lets routes be heard of
    held[0].continue_()
    expect(switch).to_be_visible()


def test_a_box_that_is_clicked_twice_at_once_is_stored_as_it_shows(
    page: Page, chat_server: LiveServer
) -> None:
    switch = page.get_by_label("May be used for training")
    held = hold_next(page, "**/queue/join*")
    with page.expect_request("**/queue/join*"):
        switch.click()
    switch.click()  # while the first is on its way
    with page.expect_request("**/queue/join*"):
        held[0].continue_()
    expect(switch).to_be_checked()
    path = f"{chat_server.url}/api/v1/chats/{chat_id(page)}"
    wait_until(lambda: page.request.get(path).json()["consent"] is True)


def test_copying_a_reply_is_a_signal_and_no_vote(page: Page, chat_server: LiveServer) -> None:

    def copied() -> int:
        with chat_server.client() as admin:
            return int(admin.get("/api/v1/stats").json()["signals"]["copied"])

    before = copied()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy", exact=True).click()
    wait_until(lambda: copied() == before + 1)
    reply = stored_messages(page, chat_server.url)[-1]["content"]
    assert page.evaluate("navigator.clipboard.readText()") == reply
    assert stored_messages(page, chat_server.url)[-1]["vote"] is None


def test_gradio_announces_nothing_of_its_own(page: Page) -> None:
    announcer = page.locator(".sr-only[role=status]")
    expect(announcer.first).to_be_attached()
    expect(announcer.first).to_be_hidden()


def test_a_thumb_for_the_whole_chat_and_back(page: Page, chat_server: LiveServer) -> None:
    whole = page.get_by_role("group", name="Whole chat")
    expect(whole).to_have_count(0)  # with one reply it would be a vote on that
    send_and_wait(page, "And you?")
    thumb(page, "Dislike").click()
    expect_vote(page, False)
    send_and_wait(page, "And then?")
    expect(whole).to_have_count(1)

    whole.get_by_role("button", name="Like the whole chat", exact=True).click()
    for reply, label in enumerate([True, False, True]):
        expect_vote(page, label, reply)
    votes = [message["vote"] for message in stored_messages(page, chat_server.url)[1::2]]
    assert [vote["share"] for vote in votes if isinstance(vote, dict)] == [0.5, None, 0.5]

    page.reload()
    liked = whole.get_by_role("button", name="Like the whole chat", exact=True)
    expect(liked).to_have_attribute("aria-pressed", "true")
    liked.click()
    expect(liked).to_have_attribute("aria-pressed", "false")
    for reply, undone in enumerate([None, False, None]):
        expect_vote(page, undone, reply)

    for reply in (0, 2):  # then there is nothing left to share it
        thumb(page, "Like", reply).click()
        expect_vote(page, True, reply)
    whole.get_by_role("button", name="Dislike the whole chat").click()
    expect(page.get_by_text("Every reply of this chat has a vote of its own")).to_be_visible()
