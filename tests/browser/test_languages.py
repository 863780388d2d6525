"""The chat page, the sign-in and the sessions in each language, and texts that run from right to left."""

import re
from contextlib import closing

import pytest
from playwright.sync_api import Locator, Page, expect

from app.web.languages import COOKIE, LANGUAGES, Language
from storage.db.database import open_database
from storage.people.users import create_user
from tests.support.axe import violations
from tests.support.chatting import OpenPage, assert_fits, with_replies
from tests.support.live_server import LiveServer, StartServer

HEBREW = "מה שלומך היום?"
ARABIC = "- واحد\n- اثنان\n\n`print(1)` ثم نص"
LOCALES = {"de": "de-AT", "es": "es-MX", "zh-CN": "zh-CN"}


def english_words(page: Page) -> set[str]:
    """What the page shows and says that is English and was not written by a person or the model."""
    shown = page.evaluate(
        """() => [...document.body.innerText.split('\\n'), ...['aria-label', 'title', 'placeholder'].flatMap(
            (name) => [...document.querySelectorAll(`[${name}]`)].map((one) => one.getAttribute(name)))]"""
    )
    english = {text for text in LANGUAGES["en"].words.values() if isinstance(text, str) and len(text) > 6}
    return english & {str(text).strip() for text in shown}


def say_and_wait(page: Page, say: Language, text: str) -> None:
    before = page.locator("[data-message]").count()
    page.get_by_role("textbox", name=say.filled("@@message@@"), exact=True).fill(text)
    page.get_by_role("button", name=say("send"), exact=True).click()
    expect(page.locator("[data-message]")).to_have_count(before + 1)


@pytest.mark.parametrize("tag", LOCALES)
def test_the_browser_chooses_the_language_of_all_that_is_said(
    chat_server: LiveServer, open_page: OpenPage, tag: str
) -> None:
    say = LANGUAGES[tag]
    scheme, width = {"de": ("light", 320), "es": ("dark", 320), "zh-CN": ("dark", 1280)}[tag]
    page = open_page(
        chat_server.url, locale=LOCALES[tag], color_scheme=scheme, viewport={"width": width, "height": 740}
    )
    expect(page.locator("html")).to_have_attribute("lang", tag)
    expect(page.get_by_role("heading", name=say("welcome"))).to_be_visible()
    expect(page.locator("[data-starter]").last).to_have_text(say.phrase("Write a haiku about rain"))
    assert_fits(page)
    assert violations(page) == []
    say_and_wait(page, say, "Hello")
    page.get_by_role("button", name=say("dislike"), exact=True).click()
    expect(page.get_by_role("button", name=say.phrase("wrong"))).to_be_visible()
    assert_fits(page)
    assert violations(page) == []
    page.get_by_role("button", name=say("chat_settings")).click()
    expect(page.get_by_label(say("system_prompt"))).to_be_visible()
    assert_fits(page)
    assert violations(page) == []
    assert english_words(page) == set()
    page.keyboard.press("Escape")
    page.get_by_role("button", name=say("say_more")).click()
    page.get_by_label(say("comment")).fill("x" * 2001)
    page.get_by_role("button", name=say("save")).click()
    expect(page.get_by_role("alert")).to_have_text(
        say.errors["{name} has {length} characters; the limit is {most}."].format(length=2001, most=2000)
    )
    assert violations(page) == []
    page.get_by_role("button", name=say("cancel")).click()
    page.get_by_role("textbox", name=say("message"), exact=True).fill("x" * 2001)
    page.get_by_role("button", name=say("send"), exact=True).click()
    expect(page.get_by_role("alert").last).to_contain_text("2001")
    assert english_words(page) == set()
    assert_fits(page)
    if width < 768:
        page.get_by_role("button", name=say("chats"), exact=True).click()
    expect(page.get_by_role("heading", name=say("today"))).to_be_visible()
    assert violations(page) == []
    assert_fits(page)

    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 640, "height": 400})  # a window of 1280 x 800 at 200 %
    assert_fits(page)
    page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(1)
    assert violations(page) == []
    page.get_by_role("button", name=say("chats"), exact=True).click()
    stored = page.url
    page.get_by_role("button", name="English").click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.get_by_role("button", name="Dislike")).to_have_attribute("aria-pressed", "true")
    assert page.url == stored
    page.goto(chat_server.url)  # remembered, whatever the browser asks for
    expect(page.get_by_role("textbox", name="Message", exact=True)).to_have_attribute(
        "placeholder", "Write a message"
    )


def test_signing_in_and_sessions(start_server: StartServer, open_page: OpenPage) -> None:
    office = {"issuer": "http://127.0.0.1:9", "client_id": "thumbloop", "label": "Our Office"}
    server = start_server(auth="accounts", language="es", oidc={"office": office})
    with closing(open_database(server.settings)) as database, database.write() as session:
        create_user(session, "ada", role="user", password="correct horse")
    page = open_page(f"{server.url}/?chat=new", locale="fr", viewport={"width": 320, "height": 740})
    expect(page.get_by_role("heading", name="Iniciar sesión")).to_be_visible()  # the setting: no French
    for choice in ("中文", "Deutsch"):
        page.get_by_role("button", name=choice).click()
        say = next(one for one in LANGUAGES.values() if one.name == choice)
        expect(page.locator("html")).to_have_attribute("lang", say.tag)
        page.get_by_label(say("name")).fill("ada")
        page.get_by_label(say("password")).fill("wrong horse")
        page.get_by_role("button", name=say("sign_in")).click()
        expect(page.get_by_role("alert")).to_have_text(say.errors["The name or the password is wrong."])
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert violations(page) == []
        assert_fits(page)
    page.get_by_label("Passwort").fill("correct horse")
    page.get_by_role("button", name="Anmelden", exact=True).click()
    expect(page.get_by_role("heading", name="Worüber möchtest du sprechen?")).to_be_visible()
    assert_fits(page)
    for tag in ("en", "zh-CN", "de"):
        page.context.add_cookies([{"name": COOKIE, "value": tag, "url": server.url}])
        for path in ("/sessions", "/admin/", "/nowhere"):
            page.goto(f"{server.url}{path}")
            expect(page.locator("html")).to_have_attribute("lang", tag)
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert violations(page) == []
            assert_fits(page)
            assert tag == "en" or english_words(page) == set()


def test_texts_from_right_to_left_begin_at_the_right(page: Page, chat_server: LiveServer) -> None:
    with_replies(page, chat_server, [ARABIC])
    page.reload()
    expect(page.locator("[data-message]")).to_have_count(2)
    box = page.get_by_role("textbox", name="Message", exact=True)
    box.fill(HEBREW)

    def side(element: Locator) -> str:
        """Where the text of the last of these elements begins."""
        found = element.last.evaluate(
            """(element) => {
              const range = document.createRange();
              range.selectNodeContents(element);
              const [text, around] = [range.getBoundingClientRect(), element.getBoundingClientRect()];
              return around.right - text.right < text.left - around.left ? 'right' : 'left';
            }"""
        )
        return str(found)

    assert box.evaluate("box => getComputedStyle(box).unicodeBidi") == "plaintext"
    box.press("Enter")
    expect(page.locator("[data-message]")).to_have_count(3)
    expect(page.locator("[data-sent] .tl-text").last).to_have_css("direction", "rtl")
    # The other replies are random texts, and some of those are lists.
    arabic = page.locator("#tl-transcript .md").filter(has_text="واحد")
    expect(arabic.locator("ul")).to_have_css("direction", "rtl")
    assert side(arabic.locator("li")) == "right"
    assert side(arabic.locator("p:has(code)")) == "right"
    expect(arabic.locator("code")).to_have_css("direction", "ltr")
    page.get_by_role("link", name=re.compile("Hello")).wait_for()
