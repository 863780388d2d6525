"""Real Chromium through Playwright. In CI a missing browser is a failure, elsewhere a skip."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.chatting import FLAGS, WAIT_MS, OpenPage, chromium_path
from tests.support.endless_model import build_endless_model
from tests.support.live_server import LiveServer
from tests.support.tiny_model import build_tiny_model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium_path()
    if path is None:
        message = "Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open an address as a new person: open_page(url, viewport=..., color_scheme=...).

    No page may raise an error or ask another host for anything.
    """
    contexts = []
    troubles: list[str] = []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(WAIT_MS)
        contexts.append(context)
        page = context.new_page()
        own = ("http://127.0.0.1:", "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else troubles.append(f"asked {r.url}"))
        page.on("pageerror", lambda error: troubles.append(f"raised {error}"))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="session")
def chat_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    """One server for all chat tests with short replies: every page that is opened is a new person."""
    yield from _running(tmp_path_factory.mktemp("chat"), model=str(tiny_model), max_message_chars=2000)


@pytest.fixture(scope="session")
def talkative_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server whose replies always run to the token limit, so that there is time to watch."""
    model = build_tiny_model(tmp_path_factory.mktemp("model") / "talkative", stops=False)
    yield from _running(tmp_path_factory.mktemp("talkative"), model=str(model), max_new_tokens=800)


@pytest.fixture(scope="session")
def endless_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One server whose replies end when they are stopped."""
    model = build_endless_model(tmp_path_factory.mktemp("model") / "endless")
    yield from _running(tmp_path_factory.mktemp("endless"), model=str(model), max_new_tokens=100_000)


def _running(folder: Path, **settings: object) -> Iterator[LiveServer]:
    server = LiveServer({"data_dir": folder / "data", **settings})
    try:
        server.start()
        yield server
    finally:
        server.close()
