"""A chat whose reply another server writes."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.chatting import (
    OpenPage,
    chat_id,
    expect_vote,
    reply_text,
    send,
    stop_button,
    thumb,
    wait_for_text,
)
from tests.support.live_server import StartServer


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_a_page_follows_and_stops_a_reply_of_another_server(
    start_server: StartServer, open_page: OpenPage, endless_model: Path, empty_database_url: str
) -> None:
    endless = {"model": endless_model, "max_new_tokens": 100_000, "serving_cache_tokens": 131_072}
    first, second = (start_server(database_url=empty_database_url, **endless) for _ in range(2))
    writing = open_page(f"{first.url}/")
    send(writing, "Tell me everything.")
    wait_for_text(writing)
    chat = chat_id(writing)
    # Cookies are of the host, whatever the port.
    following = writing.context.new_page()
    following.goto(f"{second.url}/?chat={chat}")
    wait_for_text(following)
    seen = len(reply_text(following))
    following.wait_for_function(f"document.querySelector('#tl-transcript').innerText.length > {seen + 200}")
    stop_button(following).click()
    for page in (writing, following):
        expect(stop_button(page)).to_be_hidden()
    assert reply_text(following) == reply_text(writing)
    thumb(following, "Like").click()
    expect_vote(following, True)
