"""Renders the HTML templates of the pages. Every value is escaped, because people and models wrote it."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from app.web.languages import ENGLISH, LANGUAGES

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """The HTML of a file in `templates/`, with these values."""
    return _environment.get_template(template).render(values)


def notice(text: str) -> str:
    """A refusal that assistive technology reads out at once; empty for an empty text."""
    return render("notice.html", text=text)


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


@cache
def icon(name: str) -> Markup:
    """An outline of assets/icons.svg, in the colour of the text around it."""
    outlines = dict(re.findall('<symbol id="(.+?)">(.+?)</symbol>', asset("icons.svg")))
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="currentColor" '
        'stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
        f"{outlines[name]}</svg>"
    )


@cache
def mark() -> Markup:
    return Markup(asset("icon.svg").replace("<svg", '<svg class="tl-mark" aria-hidden="true"', 1).strip())


DEMONSTRATION = ENGLISH("demonstration")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _thousands(number: int) -> str:
    """With narrow spaces that do not break."""
    return f"{number:,}".replace(",", "\u202f")


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_environment = Environment(
    loader=ChoiceLoader([PackageLoader("app.pages"), PackageLoader("app.web")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,  # which looks at the file at each use: a fifth of the time of drawing a long chat
)
_environment.filters |= {
    "number": _number,
    "duration": _duration,
    "counted": counted,
    "thousands": _thousands,
}
_environment.globals |= {
    "icon": icon,
    "mark": mark,
    "languages": LANGUAGES.values(),
    "demonstration_note": DEMONSTRATION,
}
