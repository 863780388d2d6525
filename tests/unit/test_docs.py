"""The documentation lags behind nothing: settings, commands, routes, packages, links."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi import FastAPI
from rich.text import Text

from app.api.openai import completions
from app.api.v1 import chats, guard, model_versions, training_runs, votes
from app.cli import cli
from app.commands.settings import markdown_page
from app.server import API, API_ROUTERS, ROOT_ROUTERS
from storage.imports.formats.page import in_page

ROOT = Path(__file__).parents[2]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
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
        model_versions.NewCanary,
        completions.CompletionRequest,
        votes.NewVote,
        guard.NewRelease,
    )
}


def test_settings_page_is_what_the_command_prints() -> None:
    assert (DOCS / "settings.md").read_text() == markdown_page() + "\n", (
        "docs/settings.md is behind: thumbloop settings --markdown > docs/settings.md"
    )


def test_the_formats_in_the_page_of_imports_are_what_the_command_prints() -> None:
    page = (DOCS / "imports.md").read_text()
    assert page == in_page(page), "docs/imports.md is behind: thumbloop formats --write docs/imports.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name: str) -> None:
    sections = re.split(r"^## ", (DOCS / "cli.md").read_text(), flags=re.MULTILINE)
    section = next((text for text in sections if f"`{name}" in text), None)
    assert section is not None, f"docs/cli.md does not mention `{name}`"
    for parameter in COMMANDS[name].params:
        for option in (*parameter.opts, *parameter.secondary_opts):
            if option.startswith("--") and option != "--help":
                assert option in section, f"docs/cli.md, {name}: {option} is missing"


@pytest.mark.parametrize("route", ROUTES)
def test_route_is_documented(route: str) -> None:
    assert f"`{route}`" in (DOCS / "api.md").read_text(), f"docs/api.md does not list `{route}`"


@pytest.mark.parametrize("name", BODIES)
def test_request_body_has_an_example_that_it_takes(name: str) -> None:
    (example, *_) = BODIES[name].model_json_schema()["examples"]
    BODIES[name].model_validate(example)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_loses_no_brackets(name: str) -> None:
    for parameter in COMMANDS[name].params:
        text = parameter.help or ""
        assert Text.from_markup(text).plain == text.replace("\\[", "["), "write \\\\[ for a bracket"


@pytest.mark.parametrize("page", [README, DOCS / "architecture.md"], ids=lambda page: page.name)
def test_page_names_every_package(page: Path) -> None:
    missing = [package for package in PACKAGES if f"{package}/" not in page.read_text()]
    assert not missing, f"{page.name} lacks packages"


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 130


def test_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert not [page.name for page in DOCS.glob("*.md") if page.name not in f"{index} README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    words = re.findall(r"`([\w./-]+)`", page.read_text())
    paths = [word for word in words if word.startswith(("storage/", "trainer/", "app/", "tests/", "docs/"))]
    assert not [path for path in paths if not (ROOT / path).exists()], f"{page.name} names what is gone"
    names = {
        path.name
        for folder in ("storage", "trainer", "app", "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert not [word for word in words if word.endswith(".py") and Path(word).name not in names]


def test_tests_that_the_security_page_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (DOCS / "security.md").read_text()))
    known = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)\(", path.read_text())
    }
    assert len(named) > 20
    assert not named - known, "docs/security.md names tests that are gone"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_short_enough_for_a_diff(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert not [line for line in lines if len(line) > 160 and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_compose_is_started_with_what_it_requires(page: Path) -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "compose.yaml").read_text()))
    before, *after = page.read_text().split("docker compose up")
    assert not after or all(name in before for name in required), f"compose needs {required}"


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
