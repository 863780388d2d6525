"""Real Chromium through Playwright, and Firefox. In CI a missing browser is a failure, elsewhere a skip."""

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.chatting import FLAGS, PHONE, WAIT_MS, OpenPage, assert_fits, chromium_path, send_and_wait
from tests.support.live_server import LiveServer
from tests.support.programs import made_once
from tests.support.tiny_model import build_tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = installed(chromium_path(), "Chromium", "apt-get install chromium, or set CHROMIUM to its path")
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Any]:
    """A session of Marionette in a new profile; its scripts may run in the browser's own window, too."""
    from marionette_driver.marionette import Marionette

    path = installed(
        shutil.which("firefox-esr") or shutil.which("firefox"), "Firefox", "apt-get install firefox-esr"
    )
    own_window = ["-remote-allow-system-access"]
    client = Marionette(bin=path, headless=True, app_args=own_window, gecko_log=str(tmp_path / "gecko.log"))
    client.start_session()
    yield client
    client.cleanup()


def installed(path: str | None, browser: str, remedy: str) -> str:
    """The path; without one the test fails in CI and is skipped elsewhere."""
    if path is not None:
        return path
    message = f"{browser} is not installed: {remedy}."
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open an address as a new person: open_page(url, viewport=..., color_scheme=...).

    No page may raise an error or ask another host for anything.
    """
    contexts = []
    errors: list[str] = []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        own = ("http://127.0.0.1:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else errors.append(f"asked {r.url}"))
        page.on("pageerror", lambda error: errors.append(f"raised {error}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Its replies hold no Markdown, so that a page has only the lists and headings that a test asks for."""
    return made_once("plain", partial(build_tiny_model, plain=True))


@pytest.fixture(scope="session")
def talkative_model() -> Path:
    return made_once("plain-talkative", partial(build_tiny_model, stops=False, plain=True))


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    """One server for all chat tests with short replies: every page that is opened is a new person."""
    with _server(tmp_path_factory, model=tiny_model, max_message_chars=2000) as server:
        yield server


@pytest.fixture
def page(request: pytest.FixtureRequest, chat_server: LiveServer, open_page: OpenPage) -> Iterator[Page]:
    """A chat with one reply, on a phone if the parameter says so; it must fit to the end."""
    page = open_page(chat_server.url, **(PHONE if getattr(request, "param", "") == "phone" else {}))
    send_and_wait(page, "Hello")
    yield page
    assert_fits(page)


@pytest.fixture(scope="session")
def talkative_server(tmp_path_factory: pytest.TempPathFactory, talkative_model: Path) -> Iterator[LiveServer]:
    """One server whose replies always run to the token limit, so that there is time to watch."""
    with _server(tmp_path_factory, model=talkative_model, max_new_tokens=800) as server:
        yield server


@pytest.fixture(scope="session")
def endless_server(tmp_path_factory: pytest.TempPathFactory, endless_model: Path) -> Iterator[LiveServer]:
    """One server whose replies end when they are stopped."""
    with _server(tmp_path_factory, model=endless_model, max_new_tokens=100_000) as server:
        yield server


def _server(tmp_path_factory: pytest.TempPathFactory, **settings: object) -> LiveServer:
    return LiveServer({"data_dir": tmp_path_factory.mktemp("browser") / "data", **settings})
