"""`thumbloop demo`: what is in its month, and that every page says that it is simulated and is whole."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlmodel import select

from app.pages.admin.frame import PAGES
from app.pages.html import DEMONSTRATION
from storage.chats.stats import daily_votes, version_stats
from storage.db.audit import is_demonstration, list_actions
from storage.db.database import open_database
from storage.db.tables import Chat, Deployment, User, Vote, now
from storage.registry.model_versions import get_version
from storage.registry.training_runs import count_by_state
from storage.review.second_ratings import agreement
from storage.review.voted_replies import VoteFilter, list_votes
from storage.settings import Settings
from tests.support.axe import violations
from tests.support.chatting import NARROW, OpenPage, assert_fits
from tests.support.command_line import CommandLine
from tests.support.live_server import LiveServer


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> CommandLine:
    command = CommandLine(tmp_path_factory.mktemp("demo") / "data", tiny_model)
    command.run("demo", str(command.data_dir), "--no-serve")
    return command


@pytest.fixture(scope="module")
def demo_server(command: CommandLine) -> Iterator[LiveServer]:
    with LiveServer({"data_dir": command.data_dir, "model": command.settings["model"]}) as server:
        yield server


def test_a_month_with_good_and_bad_versions(command: CommandLine, tmp_path: Path) -> None:
    with command.database() as database, database.read() as session:
        days = daily_votes(session)
        assert sum(bool(day.up or day.down) for day in days) >= 28
        assert 0.3 < sum(day.down for day in days) / sum(day.up + day.down for day in days) < 0.7
        oldest = session.exec(select(Vote.created_at).order_by(Vote.created_at)).first()
        assert oldest is not None
        assert timedelta(days=29) < now() - oldest < timedelta(days=31)
        assert len(version_stats(session)) >= 4
        rows = session.exec(select(Deployment).order_by(Deployment.id)).all()
        v2, v3 = (get_version(session, name).id for name in ("v2", "v3"))
        order = [row.version_id for row in rows]
        assert order[order.index(v3) + 1] == v2, "the bad version was rolled back"
        states = count_by_state(session)
        assert (states["succeeded"], states["skipped"], states["cancelled"]) == (4, 1, 1)
        kappa = agreement(session).kappa
        assert kappa is not None
        assert 0.4 < kappa < 1
        for use in ("excluded", "person quarantined"):
            assert list_votes(session, VoteFilter(use=use), limit=1).matching > 0
        assert {"deploy", "canary", "review", "quarantine"} <= set(list_actions(session))
        assert set(session.exec(select(Chat.source).distinct())) == {"demo"}
        assert len(session.exec(select(User)).all()) == 13
    again = command.refused("demo", str(command.data_dir))
    assert "is not empty" in again
    assert f"THUMBLOOP_DATA_DIR={command.data_dir} thumbloop serve" in again
    assert [path.name for path in command.data_dir.parent.glob(".data-*")] == [], "nothing unfinished is left"
    # Whoever gets a copy is told, too.
    copy = Settings(data_dir=tmp_path / "copy", model=str(command.settings["model"]))
    command.run("backup", str(tmp_path / "backup.tar"))
    command.settings["data_dir"] = copy.data_dir
    command.run("restore", str(tmp_path / "backup.tar"))
    command.settings["data_dir"] = command.data_dir
    with closing(open_database(copy)) as restored, restored.read() as session:
        assert is_demonstration(session)


@pytest.mark.parametrize("kind", ["desktop", "phone"])
def test_every_page_says_so_and_breaks_no_rule(
    demo_server: LiveServer, open_page: OpenPage, kind: str
) -> None:
    page = open_page(
        demo_server.admin_link(), **({**NARROW, "color_scheme": "dark"} if kind == "phone" else {})
    )
    more = ("feedback/themes", "feedback?queue=downs", "versions/compare")
    for address in ("/", *PAGES, *(f"/admin/{one}" for one in more)):
        page.goto(f"{demo_server.url}{address}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text(DEMONSTRATION)).to_be_visible()
        assert_fits(page)
        assert violations(page) == [], address


def test_runs_are_compared_and_the_time_line_shows_who_replied_when(
    demo_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(demo_server.admin_link(), **NARROW)
    page.goto(f"{demo_server.url}/admin/training")
    page.get_by_role("button", name="Compare chosen runs").tap()
    expect(page.get_by_role("alert")).to_have_text("Choose two to 4 runs to compare.")
    page.goto(f"{demo_server.url}/admin/training")
    for version in ("v2", "v4"):
        page.get_by_role("row").filter(has=page.get_by_role("link", name=version)).get_by_role(
            "checkbox"
        ).check()
    page.get_by_role("button", name="Compare chosen runs").tap()
    expect(page.get_by_role("columnheader", name="v2")).to_be_attached()
    expect(page.get_by_role("row").filter(has_text="State")).to_contain_text("succeeded")
    expect(page.get_by_role("region", name="v4").locator("svg").first).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Data: the curves of v4, as JSON").tap()
    assert json.loads(download.value.path().read_text())["progress"]["curve"]
    assert violations(page) == []
    assert_fits(page)
    page.goto(f"{demo_server.url}/admin/versions")
    line = page.get_by_role("list", name="Which version replied when").get_by_role("listitem")
    assert line.all_inner_texts()[:4] == ["v1", "v2", "v3", "v2"]
    expect(line.last).to_have_attribute("aria-current", "true")


def test_two_versions_are_asked_again_what_was_disliked_and_what_is_always_the_same(
    demo_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(demo_server.admin_link())
    page.goto(f"{demo_server.url}/admin/versions/compare?left=v2&right=v1")
    disliked = page.get_by_role("list").filter(has=page.locator("a[href*='vote=']")).get_by_role("link")
    expect(disliked).to_have_count(8)
    disliked.first.click()
    expect(page.get_by_text("the thumb went down")).to_be_visible()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("region", name="Reply of v2")).to_be_visible()
    page.get_by_role("button", name="Write a haiku about rain").click()
    expect(page.locator("textarea[name=prompt]")).to_have_value("Write a haiku about rain")
    expect(page.get_by_role("region", name="Reply of v1")).to_be_visible()
    assert violations(page) == []
