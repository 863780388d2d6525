"""The documentation lags behind nothing: settings, commands, routes, packages, links."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi import FastAPI
from rich.text import Text

from app.api.openai import completions
from app.api.v1 import canary, chats, model_versions, training_runs, votes
from app.cli import cli
from app.commands.settings import markdown_page
from app.server import API, API_ROUTERS, ROOT_ROUTERS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = [
    str(path.parent.relative_to(ROOT))
    for folder in ("storage", "trainer", "app")
    for path in sorted((ROOT / folder).glob("*/__init__.py"))
]


def commands(command: Any, words: str = "thumbloop") -> dict[str, Any]:
    """Every command by its full name, such as `thumbloop token create`."""
    if not hasattr(command, "commands"):
        return {words: command}
    return {
        full: inner
        for name, child in command.commands.items()
        for full, inner in commands(child, f"{words} {name}").items()
    }


COMMANDS = commands(typer.main.get_command(cli))


def routes() -> list[str]:
    """Every public route, such as `GET /api/v1/chats`."""
    app = FastAPI()
    for module in API_ROUTERS:
        app.include_router(module.router, prefix=API)
    for module in ROOT_ROUTERS:
        app.include_router(module.router)
    return [f"{verb.upper()} {path}" for path, verbs in app.openapi()["paths"].items() for verb in verbs]


ROUTES = routes()

BODIES = {
    body.__name__: body
    for body in (
        chats.NewChat,
        chats.ChatChanges,
        chats.SamplingChoice,
        chats.NewMessage,
        training_runs.NewRun,
        model_versions.Reason,
        canary.NewCanary,
        completions.CompletionRequest,
        votes.NewVote,
    )
}


def test_settings_page_is_what_the_command_prints() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == markdown_page() + "\n", (
        "docs/settings.md is behind: thumbloop settings --markdown > docs/settings.md"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name: str) -> None:
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if f"`{name}" in text), None)
    assert section is not None, f"docs/cli.md does not mention `{name}`"
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("--") and option != "--help":
                assert option in section, f"docs/cli.md, {name}: {option} is missing"


@pytest.mark.parametrize("route", ROUTES)
def test_route_is_documented(route: str) -> None:
    assert f"`{route}`" in (ROOT / "docs" / "api.md").read_text(), f"docs/api.md does not list `{route}`"


@pytest.mark.parametrize("name", BODIES)
def test_request_body_has_an_example_that_it_takes(name: str) -> None:
    (example, *_) = BODIES[name].model_json_schema()["examples"]
    BODIES[name].model_validate(example)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loses_no_brackets(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = parameter.help or ""
        assert Text.from_markup(text).plain == text.replace("\\[", "["), "write \\\\[ for a bracket"


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_names_package(package: str) -> None:
    assert f"{package}/" in README.read_text(), f"README's tree of packages lacks {package}/"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]+src=\"([^\"]+)\"", page.read_text()):
        link = "".join(target)
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {link} leads nowhere"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {link} names no heading of {file.name}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
