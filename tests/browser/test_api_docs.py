"""The API's documentation in a real browser: drawn, under the content policy, without another host."""

from playwright.sync_api import expect

from tests.browser.conftest import OpenPage
from tests.support.live_server import LiveServer


def test_the_documentation_is_drawn_and_calls_the_api(open_page: OpenPage, chat_server: LiveServer) -> None:
    page = open_page(f"{chat_server.url}/")  # signs in
    console: list[str] = []
    page.on("console", lambda m: console.append(m.text) if m.type in ("error", "warning") else None)
    page.goto(f"{chat_server.url}/docs")
    expect(page.get_by_role("heading", name="Thumbloop")).to_be_visible()
    votes = page.locator("#operations-votes-list_vote_tags_api_v1_vote_tags_get")
    votes.click()
    votes.get_by_role("button", name="Try it out").click()
    votes.get_by_role("button", name="Execute").click()
    expect(votes.locator(".live-responses-table td.response-col_status:not(.col_header)")).to_contain_text(
        "200"
    )
    assert console == []
    refused = page.request.get(f"{chat_server.url}/docs/LICENSE")
    assert refused.status == 404
