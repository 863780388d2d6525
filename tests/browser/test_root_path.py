"""The pages below a path of another site, behind nginx and several servers."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.chatting import OpenPage, expect_vote, send_and_wait, thumb
from tests.support.live_server import StartServer
from tests.support.proxy import nginx

PREFIX = "/team/chat"


@pytest.mark.parametrize("empty_database_url", ["postgresql"], indirect=True)
def test_everything_stays_below_the_prefix(
    start_server: StartServer, open_page: OpenPage, empty_database_url: str, tmp_path: Path
) -> None:
    servers = [start_server(database_url=empty_database_url, root_path=PREFIX) for _ in range(2)]
    with nginx(tmp_path / "nginx", [server.settings.port for server in servers], PREFIX) as address:
        page = open_page(f"{address}/")
        outside = watch(page, address)
        send_and_wait(page, "Hello")
        thumb(page, "Like").click()
        expect_vote(page, True)
        page.reload()
        expect_vote(page, True)

        page.goto(address + servers[0].admin_link().removeprefix(servers[0].url))
        expect(page).to_have_url(f"{address}/admin/")
        links = page.get_by_role("navigation", name="Admin pages").get_by_role("link")
        for name in links.all_inner_texts():
            links.get_by_text(name.strip()).click()
            expect(page.get_by_role("heading", level=1)).to_have_text(name.strip())
        page.goto(f"{address}/admin/training")
        page.get_by_role("button", name="Train now").click()
        expect(page.get_by_role("row", name=re.compile("skipped"))).to_be_visible()
        page.goto(f"{address}/admin/data")
        page.locator("[data-export]").get_by_role("button", name="Export").click()
        expect(page.locator("[data-export] [data-result]")).not_to_be_empty()
        page.goto(f"{address}/docs")
        expect(page.locator(".servers")).to_contain_text(PREFIX)  # where the documentation tries requests
        page.goto(f"{address}/admin/")
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{address}/")
        assert outside == []


def watch(page: Page, address: str) -> list[str]:
    """Gets what the page asked for outside of the prefix, and what it was refused."""
    found: list[str] = []
    page.on(
        "request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else found.append(r.url)
    )
    page.on("response", lambda r: found.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    return found
