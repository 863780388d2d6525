"""What shows where and when on the chat page: the empty page, the bars of older replies, the list by day."""

from playwright.sync_api import Page, expect

from tests.support.chatting import PHONE, OpenPage, box, send, send_and_wait, thumb
from tests.support.live_server import LiveServer, StartServer

# The text of the style sheets' rules for an element.
RULES = """part => [...document.styleSheets].flatMap(sheet => [...sheet.cssRules])
    .filter(rule => rule.selectorText?.split(', ').some(one => one.endsWith(part)))
    .map(rule => rule.cssText).join()"""


def test_a_click_on_an_idea_sends_it(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    ideas = page.get_by_role("list", name="Ideas to begin with").get_by_role("button")
    expect(ideas).to_have_count(4)
    expect(page.locator(".tl-welcome")).to_contain_text("Model v1 answers.")
    box(page).fill("my own words")
    expect(ideas.first).not_to_be_visible()  # a click would lose them
    box(page).fill("")
    text = ideas.first.inner_text()
    ideas.first.click()
    expect(page.locator(".tl-text")).to_have_text(text)
    expect(page.locator("[data-message]")).to_have_count(1)
    expect(box(page)).to_have_value("")
    expect(ideas).to_have_count(0)


def test_ideas_are_a_setting(start_server: StartServer, open_page: OpenPage) -> None:
    page = open_page(start_server(starter_prompts=[]).url)
    expect(page.get_by_role("heading", name="What would you like to talk about?")).to_be_visible()
    expect(page.get_by_role("list", name="Ideas to begin with")).to_have_count(0)


def test_bar_of_an_older_reply_shows_near_the_pointer_and_with_the_focus(page: Page) -> None:
    send_and_wait(page, "Another")
    older, newest = thumb(page, "Like", 0), thumb(page, "Like")
    page.mouse.move(0, 0)
    expect(newest).to_have_css("opacity", "1")
    expect(older).to_have_css("opacity", "0")
    page.locator(".bot-row .message-content").first.hover()  # the text above it
    expect(older).to_have_css("opacity", "1")
    page.mouse.move(0, 0)
    expect(older).to_have_css("opacity", "0")
    older.focus()
    expect(older).to_have_css("opacity", "1")
    older.press("Enter")
    box(page).focus()
    expect(older).to_have_css("opacity", "1")  # a vote stays in sight
    expect(thumb(page, "Dislike", 0)).to_have_css("opacity", "0")


def test_a_vote_that_trains_is_thanked_for_beside_the_newest_reply(page: Page) -> None:
    thanks = page.get_by_text("Thank you: in the next training.")
    expect(thanks).to_be_hidden()
    thumb(page, "Like").click()
    expect(thanks).to_be_visible()
    consent = page.get_by_label("May be used for training")
    consent.uncheck()
    expect(thanks).to_be_hidden()
    consent.check()
    expect(thanks).to_be_visible()
    send_and_wait(page, "Two")
    page.mouse.move(0, 0)
    expect(thanks.first).to_have_css("opacity", "0")


def test_bars_show_where_nothing_hovers(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url, **PHONE)
    send_and_wait(page, "One")
    send_and_wait(page, "Two")
    expect(thumb(page, "Like", 0)).to_have_css("opacity", "1")


def test_a_phone_gets_an_app_that_keeps_clear_of_its_edges_and_does_not_zoom(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url, reduced_motion="reduce", **PHONE)
    viewport = page.locator("meta[name=viewport]").get_attribute("content") or ""
    assert {"viewport-fit=cover", "interactive-widget=resizes-content"} <= set(viewport.split(", "))
    assert "user-scalable" not in viewport
    send_and_wait(page, "Hello")
    page.get_by_role("button", name="Chats").tap()
    page.get_by_label("Rename, export or delete: Hello").tap()
    for field in page.locator("textarea:visible, input:not([type=checkbox]):visible").all():
        expect(field).to_have_css("font-size", "16px")  # below, a phone zooms in
    for part in ("#tl-page", "#tl-composer"):
        assert "env(safe-area-inset-" in page.evaluate(RULES, part), part
    moving = page.evaluate("document.getAnimations().filter(one => one.playState === 'running').length")
    assert moving == 0
    page.context.clear_cookies()  # a browser asks without them
    manifest = page.request.get(f"{chat_server.url}/manifest.json").json()
    assert manifest["display"] == "standalone"
    assert page.request.get(f"{chat_server.url}/{manifest['icons'][0]['src']}").ok
    assert page.locator("link[rel=manifest]").get_attribute("href") == "/manifest.json"


def test_send_and_stop_are_one_round_button_in_the_card(
    endless_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(endless_server.url, viewport={"width": 320, "height": 640})
    for name in ("Send", "Stop"):
        button = page.locator("#tl-card").get_by_role("button")
        expect(button).to_have_count(1)
        expect(button).to_have_accessible_name(name)
        place = button.bounding_box()
        assert place is not None
        assert place["width"] == place["height"]
        if name == "Send":
            send(page, "A story")
            expect(page.get_by_role("button", name="Stop")).to_be_visible()
    page.get_by_role("button", name="Stop").click()


def test_chats_are_listed_by_day_in_the_browsers_time_zone(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url, timezone_id="Pacific/Kiritimati")
    send_and_wait(page, "Hello")
    expect(page.get_by_role("navigation", name="Your chats").get_by_role("heading")).to_have_text(["Today"])
