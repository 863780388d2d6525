"""The files of the languages say the same, and nothing that a chatting person reads stands outside them."""

import ast
import re
import string
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest
from jinja2 import Environment, nodes

from app.web.languages import COOKIE, ENGLISH, LANGUAGES, MARK, Language, language_of
from storage.errors import InvalidInput, TooLarge
from storage.settings import Settings
from tests.support import REPOSITORY

OTHERS = [one for one in LANGUAGES.values() if one is not ENGLISH]
ASSETS = REPOSITORY / "app" / "pages" / "assets"
CHAT = REPOSITORY / "app" / "pages" / "chat"
SCRIPTS = [path for path in ASSETS.glob("*.js") if path.stem not in ("admin", "data")]
TEMPLATES = [
    *(REPOSITORY / "app" / "pages" / "templates" / "chat").glob("*.html"),
    *(REPOSITORY / "app" / "web" / "templates").glob("*.html"),
]
# What a person or a program is called is the same in every language.
GAP = "\N{OBJECT REPLACEMENT CHARACTER}"  # where a template has a value
NAMES = {"Thumbloop", "thumbloop admin-link", "Markdown", "JSON"}


def texts_of(language: Language) -> dict[str, str]:
    """Every text by its key, each plural form by a key of its own."""
    forms = ((key, {"": text} if isinstance(text, str) else text) for key, text in language.words.items())
    return {f"{key}.{form}".rstrip("."): text for key, each in forms for form, text in each.items()}


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def strings_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.tag)
def test_a_language_says_what_english_says(language: Language) -> None:
    assert list(language.words) == list(ENGLISH.words)
    for key, english in ENGLISH.words.items():
        text = language.words[key]
        if isinstance(english, str):
            assert isinstance(text, str), key
            assert places(text) == places(english), key
        else:
            assert not isinstance(text, str), key
            assert set(text) == {*language.locale.plural_form.tags, "other"}, key
            assert places(text["other"]) == places(english["other"]), key
    defaults = Settings.model_fields
    given = chain.from_iterable(
        defaults[name].default for name in ("vote_tags", "vote_tags_up", "starter_prompts")
    )
    assert set(language.given) == set(given)
    assert list(language.errors) == list(OTHERS[0].errors)
    for english, text in language.errors.items():
        assert places(text) <= places(english), english
        # Whoever chats can set nothing.
        assert not re.search(r"THUMBLOOP_|[a-z]_[a-z]", re.sub(r"{.*?}", "", english + text)), english


def test_no_word_needs_escaping_in_a_page_or_script() -> None:
    for language in LANGUAGES.values():
        assert [text for text in texts_of(language).values() if re.search(r"[<>&\"'`\\\n]", text)] == []


def test_every_error_that_is_translated_is_raised() -> None:
    sources = chain.from_iterable((REPOSITORY / folder).rglob("*.py") for folder in ("app", "storage"))
    raised = set().union(*map(strings_in, sources))
    assert set(OTHERS[0].errors) - raised == set()


def test_every_error_of_the_chat_page_is_translated() -> None:
    for path in [*CHAT.glob("*.py"), REPOSITORY / "app" / "web" / "password_checks.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                said = node.exc.args[0]
                assert not isinstance(said, ast.Constant) or said.value in OTHERS[0].errors, (
                    f"{path}: {said.value}"
                )
                assert not isinstance(said, ast.JoinedStr), path


def test_no_text_stands_in_a_template() -> None:
    for path in TEMPLATES:
        tree = Environment().parse(path.read_text(encoding="utf-8"))
        pieces = [piece.data for piece in tree.find_all(nodes.TemplateData)]
        html = re.sub(rf'(?s)<style>.*?</style>|data-{GAP}="{GAP}"', "", GAP.join(pieces))
        consts = [const.value for const in tree.find_all(nodes.Const)]
        assert [text for text in consts if isinstance(text, str) and re.match(r"[A-Z][a-z]", text)] == []
        named = re.findall(r'(?:aria-label|title|placeholder|alt)="([^"]*)"', html)
        for text in [*re.split(r"<[^>]*>", html), *named]:
            words = text.strip(f" \n·/{GAP}")
            assert not re.search(r"[A-Za-z]{2}", words) or words in NAMES, f"{path.name}: {words!r}"


def test_no_text_stands_in_a_script_or_in_the_layout() -> None:
    """A sentence begins with a capital letter and has a space or an end."""
    for path in [*SCRIPTS, CHAT / "page.py"]:
        source = re.sub(r'(?m)^\s*//.*$|\s// .*$|(?s:""".*?""")', "", path.read_text(encoding="utf-8"))
        for text in re.findall(r">([^<>{}()`=;]+)<|[\"'`]([A-Z][a-z]+[ .][^\"'`]*)[\"'`]", source):
            words = (text[0] or text[1]).strip()
            assert not re.search(r"[A-Za-z]{2}", MARK.sub("", words)) or words in OTHERS[0].errors, (
                f"{path.name}: {words!r}"
            )


def test_every_word_is_said_somewhere() -> None:
    shown = [*SCRIPTS, *TEMPLATES, *CHAT.glob("*.py"), *(REPOSITORY / "app" / "web").glob("*.py")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in shown)
    built = {f"{when}_{kind}" for when in ("earlier", "later") for kind in ("message", "reply")}
    built |= {"message_place", "reply_place"}
    assert [
        key for key in ENGLISH.words if key not in built and not re.search(rf"[\"@]{key}[\"@]", source)
    ] == []


@pytest.mark.parametrize(
    ("accepted", "tag"),
    [
        ("de-CH,de;q=0.9,en;q=0.8", "de"),
        ("en;q=0.5, es-MX", "es"),
        ("zh-TW", "zh-CN"),
        ("fr,zh;q=0.2", "zh-CN"),
        ("es;q=0, fr", "de"),  # nothing that there is: the setting
        ("es;q=much, *", "de"),
        ("", "de"),
    ],
)
def test_the_browser_chooses(accepted: str, tag: str) -> None:
    settings = Settings(language="de")
    assert language_of({"accept-language": accepted}, {}, settings).tag == tag
    assert language_of({"accept-language": accepted}, {COOKIE: "en"}, settings) is ENGLISH
    assert language_of({"accept-language": accepted}, {COOKIE: "tlh"}, settings).tag == tag


def test_the_setting_knows_every_file() -> None:
    assert sorted(get_args(Settings.model_fields["language"].annotation)) == sorted(LANGUAGES)


def test_an_error_is_said_with_its_values_or_else_in_english() -> None:
    template = (
        "The message has {length} characters; at most {most} are accepted. Shorten it or send it in parts."
    )
    error = TooLarge(template, length=12, most=10)
    assert error.message.startswith("The message has 12 characters; at most 10")
    assert LANGUAGES["de"].error(error).startswith("Die Nachricht hat 12 Zeichen, höchstens 10")
    assert ENGLISH.error(error) == error.message
    assert LANGUAGES["de"].error(InvalidInput("A {brace} in what was sent.")) == "A {brace} in what was sent."


def test_a_number_chooses_the_form() -> None:
    assert "first message:" in ENGLISH("left_out", count=1)
    assert "first 2 messages" in ENGLISH("left_out", count=2)
    assert "2 条消息" in LANGUAGES["zh-CN"]("left_out", count=2)
