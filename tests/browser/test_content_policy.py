"""Whatever a model writes, no script of it runs: the page guard's policy in a real browser."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.sync_api import Browser, expect

from app.server import mount_page
from app.web.page_guard import PageGuard
from storage.db.database import open_database
from storage.settings import Settings
from tests.support.chatting import WAIT_MS
from tests.support.live_server import wait_until

HEAD = "<script>document.documentElement.dataset.ours = 'ran'</script>"
ATTACK = "**bold** <img src=x onerror=\"document.title = 'owned'\">"


def page() -> gr.Blocks:
    with gr.Blocks(title="safe") as blocks:
        chat = gr.Chatbot()
        raw = gr.HTML()  # not sanitized: what it would be like if the sanitizer failed
        entry = gr.Textbox(label="Say")
        gr.HTML("<i>loading</i>", js_on_load="element.querySelector('i').textContent = 'handler ran'")
        entry.submit(lambda _: ([{"role": "assistant", "content": ATTACK}], ATTACK), entry, [chat, raw])
    return blocks


@pytest.fixture
def guarded_page(tmp_path: Path) -> Iterator[str]:
    settings = Settings(data_dir=tmp_path / "data")
    database = open_database(settings)
    pages = mount_page(page(), {"head": HEAD, "footer_links": [], "run_history": False})

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pages.router.lifespan_context(pages):
            yield

    app = FastAPI(lifespan=lifespan)
    app.router.default = PageGuard(pages, database, settings, head=[HEAD])
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    database.close()


def test_what_a_model_writes_is_shown_but_not_run(browser: Browser, guarded_page: str) -> None:
    context = browser.new_context()
    context.set_default_timeout(WAIT_MS)
    tab = context.new_page()
    blocked: list[str] = []
    errors: list[str] = []
    tab.on("console", lambda m: blocked.append(m.text) if "Content Security Policy" in m.text else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(guarded_page)
    expect(tab.get_by_text("handler ran")).to_be_visible()
    assert tab.evaluate("document.documentElement.dataset.ours") == "ran"
    assert blocked == []  # Gradio and our own script need nothing that the policy forbids
    tab.get_by_label("Say").fill("hello")
    with tab.expect_console_message(lambda message: "inline event handler" in message.text):
        tab.get_by_label("Say").press("Enter")
    expect(tab.locator("strong")).to_have_text("bold")
    assert tab.title() == "safe"
    assert errors == []
    context.close()
