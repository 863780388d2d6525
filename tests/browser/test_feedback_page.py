"""The feedback page in a real browser: search, review by keyboard, exclusion and its undoing, on a phone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from storage.db.database import Database, open_database
from storage.registry import model_versions
from storage.review.second_ratings import agreement
from storage.review.voted_replies import VoteFilter, list_votes
from tests.support.axe import violations
from tests.support.chatting import NARROW, OpenPage, assert_fits
from tests.support.live_server import LiveServer
from tests.support.rows import add_person_with_reply, add_reply

LINES = "main li:has(a)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("feedback") / "data"
    with LiveServer({"data_dir": folder, "model": tiny_model}) as server:
        yield server


@pytest.fixture(scope="module")
def store(server: LiveServer) -> Iterator[Database]:
    """With twelve votes, every third of them down."""
    database = open_database(server.settings)
    with database.write() as session:
        base = model_versions.deployed_version(session)
        for n in range(12):
            add_person_with_reply(
                session,
                version_id=base.id,
                question=f"Question {n}?",
                answer=f"<b>Answer</b> {n}. " + "word " * 80,
                label=n % 3 != 0,
                comment="A comment." if n == 5 else None,
            )
    yield database
    database.close()


def feedback(server: LiveServer, open_page: OpenPage, **options: object) -> Page:
    page = open_page(server.admin_link(), **options)
    page.goto(f"{server.url}/admin/feedback")
    return page


def uses(store: Database) -> list[str]:
    with store.read() as session:
        return [vote.use for vote in list_votes(session, VoteFilter(), limit=100).votes]


def test_an_empty_store_says_what_to_do(server: LiveServer, open_page: OpenPage) -> None:
    """The first test: the others fill the store."""
    expect(feedback(server, open_page).locator("li.empty")).to_contain_text("Nobody has voted yet.")


def test_ten_votes_are_reviewed_by_keyboard_alone(
    server: LiveServer, store: Database, open_page: OpenPage
) -> None:
    page = feedback(server, open_page)
    expect(page.locator(LINES)).to_have_count(12)
    page.keyboard.press("/")
    page.keyboard.type("answer")
    page.keyboard.press("Enter")
    expect(page.locator("section > p")).to_contain_text("12 votes match.")
    page.locator(LINES).first.locator("a").focus()
    page.keyboard.press("Enter")
    for n in range(11, 1, -1):
        expect(page.locator(".turn.user p")).to_have_text(f"Question {n}?")
        page.keyboard.press("u" if n % 2 else "d")
        expect(page.get_by_role("button", name="Good" if n % 2 else "Bad")).to_have_attribute(
            "aria-pressed", "true"
        )
        page.keyboard.press("j")
    expect(page.locator(".turn.user p")).to_have_text("Question 1?")
    page.keyboard.press("Escape")
    expect(page.locator("article")).to_have_count(0)
    with store.read() as session:
        found = agreement(session)
    # Rated up: 11, 9, 7, 5, 3. Voted up: all but 9, 6, 3.
    assert (found.ratings, found.agreed) == (10, 4)
    expect(page.locator("section > p")).to_contain_text("Second ratings agree with 4 of 10")


def test_votes_are_excluded_together_and_that_is_undone(
    server: LiveServer, store: Database, open_page: OpenPage
) -> None:
    page = feedback(server, open_page)
    page.get_by_role("button", name="Exclude chosen").click()
    expect(page.get_by_role("alert")).to_have_text("Choose a vote first.")
    boxes = page.locator(LINES).get_by_role("checkbox")
    boxes.nth(0).check()
    boxes.nth(2).check()
    page.get_by_role("button", name="Exclude chosen").click()
    expect(page.get_by_role("status")).to_contain_text("2 votes excluded from training.")
    expect(page.locator(LINES).filter(has_text="excluded")).to_have_count(2)
    assert uses(store).count("excluded") == 2
    page.get_by_label("Training").select_option("excluded")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(LINES)).to_have_count(2)
    page.go_back()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status")).to_contain_text("2 votes included again.")
    assert set(uses(store)) == {"counts"}
    for number in range(12):
        boxes.nth(number).check()
    page.get_by_label("Note", exact=True).fill("Spam?")
    page.get_by_role("button", name="Rate down").click()
    expect(page.get_by_role("status")).to_contain_text("2 votes rated.")  # the others were rated by hand
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status")).to_have_count(0)
    boxes.nth(1).check()
    boxes.nth(3).check()
    page.get_by_role("button", name="Quarantine their people").click()
    expect(page.get_by_role("status")).to_contain_text("2 people quarantined.")
    assert uses(store).count("person quarantined") == 2
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("status")).to_contain_text("2 people released.")
    assert set(uses(store)) == {"counts"}
    with store.read() as session:
        assert agreement(session).ratings == 10


def test_an_admin_writes_what_a_reply_should_have_said(server: LiveServer, open_page: OpenPage) -> None:
    page = feedback(server, open_page)
    page.locator(LINES).filter(has_text="Question 0?").locator("a").click()
    better = page.get_by_label("What it should have said")
    page.get_by_text("What it should have said").click()
    expect(better).to_have_value(re.compile("Answer"))  # begins with the reply
    assert violations(page) == []
    page.locator("article").get_by_role("button", name="Note only").click()
    expect(better).to_be_hidden()  # unchanged, so it is none
    page.get_by_text("What it should have said").click()
    better.fill("Two lines:\nof it.")
    page.locator("article").get_by_role("button", name="Note only").click()
    expect(better).to_have_value("Two lines:\nof it.")


def test_a_person_is_quarantined_and_released_beside_their_vote_on_a_phone(
    server: LiveServer, store: Database, open_page: OpenPage
) -> None:
    page = feedback(server, open_page, **NARROW)
    page.locator(LINES).get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Exclude chosen").click()
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    assert violations(page) == []
    assert_fits(page)
    page.get_by_role("button", name="Undo").click()
    page.locator(LINES).filter(has_text="Question 5?").locator("a").click()
    expect(page.locator("section")).to_be_hidden()
    expect(page.locator("article")).to_contain_text("A comment.")
    expect(page.locator(".turn.rated p")).to_contain_text("<b>Answer</b> 5.")  # as text
    assert_fits(page)
    page.get_by_role("button", name="Quarantine this person").click()
    expect(page.get_by_role("button", name="Release this person")).to_be_visible()
    assert uses(store).count("person quarantined") == 1
    page.get_by_role("button", name="Release this person").click()
    expect(page.get_by_role("button", name="Quarantine this person")).to_be_visible()
    page.get_by_role("link", name="All votes of this person").click()
    expect(page.locator(LINES)).to_have_count(1)
    assert set(uses(store)) == {"counts"}


def test_a_queue_is_reviewed_by_keyboard_and_empties(
    server: LiveServer, store: Database, open_page: OpenPage
) -> None:
    """The last test: it rates what the others count."""
    page = feedback(server, open_page)
    page.get_by_role("link", name="random").click()
    expect(page.get_by_role("link", name="random")).to_have_attribute("aria-current", "page")
    expect(page.locator("section > p")).to_contain_text("What you have rated leaves the queue.")
    assert violations(page) == []
    lines = page.locator(LINES)
    left = lines.count()
    assert left == 2
    lines.first.locator("a").focus()
    page.keyboard.press("Enter")
    while left:
        expect(lines).to_have_count(left)
        expect(page.locator("article")).to_be_visible()
        page.keyboard.press("d")
        left -= 1
    expect(page.locator("li.empty")).to_contain_text("Nothing is left to rate here.")
    page.get_by_role("link", name="contradictory").click()
    expect(page.get_by_role("link", name="contradictory")).to_have_attribute("aria-current", "page")


def test_the_overview_warns_when_many_replies_fail(
    server: LiveServer, store: Database, open_page: OpenPage
) -> None:
    with store.write() as session:
        base = model_versions.deployed_version(session)
        _, chat, _ = add_person_with_reply(session, version_id=base.id)
        for _ in range(3):
            add_reply(session, chat, "Again?", version_id=base.id, state="failed")
    page = open_page(server.admin_link())
    expect(page.locator("#page")).to_contain_text("3 of 16 replies of the last 24 hours failed")
