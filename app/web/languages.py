"""The languages of the chat page and the sign-in: one file each, chosen by a cookie or by the browser.

A template says a word of the file with `say("new_chat")`. What Gradio or a script holds as fixed text is
written as @@new_chat@@, and filled in on the page's way to the browser. An error is translated by its English
sentence.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from babel import Locale
from starlette.requests import HTTPConnection
from starlette.responses import Response

from storage.errors import ThumbloopError
from storage.settings import Settings

COOKIE = "thumbloop_language"
REMEMBERED_SECONDS = 365 * 86_400
HEADER = "X-Thumbloop-Language"  # sent by the chat page's scripts: an error's message in this language
MARK = re.compile("@@([a-z_]+)@@")
FOLDER = Path(__file__).parent / "languages"


@dataclass(frozen=True)
class Language:
    """The texts of one file; `given` translates the tags and starters of the default settings."""

    tag: str
    name: str
    words: Mapping[str, str | Mapping[str, str]]
    given: Mapping[str, str]
    errors: Mapping[str, str]

    def __call__(self, key: str, /, count: int = 0, **values: object) -> str:
        """The text of this key, of its plural forms the one for `count`."""
        text = self.words[key]
        if not isinstance(text, str):
            text = text[self.locale.plural_form(count)]
        return text.format(count=count, **values)

    def phrase(self, text: str) -> str:
        """A tag or a starter, which an admin may have written in any language."""
        return self.given.get(text, text)

    def error(self, error: ThumbloopError) -> str:
        """What an error says, in English where the file lacks it."""
        text = self.errors.get(error.template)
        return error.message if text is None else text.format(**error.values)

    def filled(self, text: str) -> str:
        """A page or script with words in the place of its marks. No word needs escaping in either."""
        return MARK.sub(lambda mark: self.tag if mark[1] == "tag" else str(self.words[mark[1]]), text)

    @cached_property
    def locale(self) -> Locale:
        return Locale.parse(self.tag, sep="-")

    @property
    def direction(self) -> str:
        return self.locale.text_direction


def _read(path: Path) -> Language:
    texts = json.loads(path.read_text(encoding="utf-8"))
    return Language(path.stem, texts["name"], texts["words"], texts.get("given", {}), texts.get("errors", {}))


LANGUAGES = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.json"))}
ENGLISH = LANGUAGES["en"]


def language_of(headers: Mapping[str, str], cookies: Mapping[str, str], settings: Settings) -> Language:
    """The language that the person chose, or the first that the browser asks for, or the setting's."""
    chosen = cookies.get(COOKIE, "")
    wanted = [] if chosen in LANGUAGES else _wanted(headers.get("accept-language", ""))
    known = (_nearest(tag) for tag in [chosen, *wanted, settings.language])
    return next((one for one in known if one is not None), ENGLISH)


def language_in(request: HTTPConnection) -> Language:
    return language_of(request.headers, request.cookies, request.app.state.services.settings)


def remember(response: Response, tag: str, *, secure: bool) -> None:
    """Let the browser keep the choice."""
    if tag in LANGUAGES:
        response.set_cookie(
            COOKIE, tag, max_age=REMEMBERED_SECONDS, secure=secure, httponly=True, samesite="lax"
        )


def _wanted(accepted: str) -> list[str]:
    """The tags of an Accept-Language header, the best first."""
    weighed = []
    for part in accepted.split(",")[:20]:
        tag, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1), tag))
        except ValueError:
            continue
    return [tag for weight, tag in sorted(weighed, key=lambda one: one[0]) if weight]


def _nearest(tag: str) -> Language | None:
    """The language of this tag, or of another country: de for de-CH, zh-CN for zh-TW."""
    if tag in LANGUAGES:
        return LANGUAGES[tag]
    primary = tag.partition("-")[0].lower()
    return next((one for one in LANGUAGES.values() if one.tag.partition("-")[0] == primary), None)
