"""Renders the HTML templates of the pages. Every value is escaped, because people and models wrote it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

ASSETS = Path(__file__).parent / "assets"


def render(template: str, **values: Any) -> str:
    """The HTML of a file in `templates/`, with these values."""
    return _environment.get_template(template).render(values)


def notice(text: str, *, bad: bool = True) -> str:
    """A message that assistive technology reads out at once; empty for an empty text."""
    return render("notice.html", text=text, bad=bad)


def asset(name: str) -> str:
    """The text of a file in `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_environment = Environment(
    loader=PackageLoader("app.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {"number": _number, "duration": _duration, "counted": counted}
