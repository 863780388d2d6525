"""The admin's pages in a real browser: counts, a run with its progress, deploy, roll back, data, people."""

import csv
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from app.judge.two_turns.picture import draw_scores
from app.judge.two_turns.plan import Plan
from app.judge.two_turns.questions import Question
from app.judge.two_turns.report import make_report
from app.pages.admin.frame import PAGES
from storage.db.database import open_database
from storage.registry.artifacts import Artifacts
from storage.registry.evaluations import EVALUATIONS, PICTURE, REPORT
from storage.registry.set_aside import Reason
from tests.support import http_loop
from tests.support.adapters import publish_adapter
from tests.support.axe import violations
from tests.support.chatting import NARROW, PHONE, OpenPage, assert_fits, send_and_wait
from tests.support.live_server import LiveServer, StartServer
from tests.support.rated_files import rated, write_rows
from tests.support.rows import add_set_aside
from trainer.sweep.folder import SweepFolder, new_folder
from trainer.sweep.grid import Grid, Point, Result

# Notes every value that the progress bar had.
WATCH = """() => {
  window.progress = [];
  setInterval(() => {
    const value = document.querySelector('[role=progressbar]')?.getAttribute('aria-valuenow');
    if (value != null && value !== window.progress.at(-1)) window.progress.push(value);
  }, 50);
}"""

# The gate is tested elsewhere; here it lets everything pass, and an admin deploys.
LENIENT = {"gate_loss_tolerance": 100, "gate_auc_tolerance": 1, "auto_deploy": False}


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """A file with 40 votes, every fourth of them down."""
    return write_rows(tmp_path / "votes.jsonl", (rated(n, label=n % 4 != 0) for n in range(40)))


def card(page: Page, title: str) -> Locator:
    return page.locator(".card").filter(has_text=title).locator("strong")


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Admin pages").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def import_votes(page: Page, file: Path) -> None:
    go(page, "Data")
    form = page.locator("[data-import]")
    form.locator("input[type=file]").set_input_files(file)
    form.get_by_role("button", name="Import").click()
    expect(form.locator("[data-result]")).to_contain_text("Imported")


def version(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name)


def confirm(place: Page | Locator, verb: str, name: str) -> None:
    place.get_by_role("button", name=f"{verb} {name}").first.click()
    place.get_by_role("button", name=f"{verb} {name}").last.click()


@pytest.fixture(scope="module")
def admin_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("admin") / "data"
    with LiveServer({"data_dir": folder, "model": tiny_model, "schedule": "30 4 * * *"}) as server:
        yield server


def test_train_deploy_and_roll_back(start_server: StartServer, open_page: OpenPage, votes: Path) -> None:
    often = {"epochs": 20, "lease_seconds": 6}  # it trains long enough, and says so often enough, to be seen
    server = start_server(**often, **LENIENT)
    page = open_page(server.admin_link())
    expect(card(page, "Thumbs up")).to_have_text("0")
    expect(page.get_by_text("not ready", exact=True)).to_be_visible()
    import_votes(page, votes)
    go(page, "Overview")
    expect(card(page, "Thumbs up")).to_have_text("30")
    expect(card(page, "Thumbs down")).to_have_text("10")
    expect(page.locator(".card").filter(has_text="Thumbs down")).to_contain_text("weight 1.724")
    expect(page.get_by_text("ready", exact=True)).to_be_visible()

    go(page, "Training")
    page.evaluate(WATCH)
    page.get_by_role("button", name="Train now").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"\d"))
    expect(page.get_by_role("button", name="Train now")).to_have_count(0)
    page.get_by_role("button", name="Cancel run").click()
    expect(page.locator("[data-live]")).to_contain_text("cancelled")
    page.get_by_role("button", name="Train now").click()
    page.get_by_role("link", name="Details").click()
    expect(page.get_by_role("img", name="Loss from step 1")).to_be_visible()
    page.evaluate(WATCH)
    expect(page.locator("[data-live]")).to_contain_text("succeeded", timeout=240_000)
    expect(page.locator(".log")).to_contain_text("Step 20 of")
    expect(page.get_by_role("img", name="Loss from step 1")).to_be_visible()
    expect(page.locator(".notice")).to_have_count(0)  # that it was requested is no news any more
    go(page, "Training")
    expect(page.get_by_role("region", name="Training runs").locator("tbody tr")).to_have_count(2)

    go(page, "Versions")
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    version(page, "v2").get_by_text("What the gate measured").click()
    expect(version(page, "v2").get_by_role("row", name="KTO loss")).to_contain_text(re.compile(r"0\.\d{4}"))
    confirm(version(page, "v2"), "Deploy", "v2")
    expect(page.get_by_role("status")).to_have_text("v2 answers from now on.")
    expect(version(page, "v2")).to_contain_text("deployed")
    chat = page.context.new_page()
    chat.goto(server.url)
    send_and_wait(chat, "Hello")
    expect(chat.locator("[data-message]")).to_contain_text("v2")

    # By keyboard alone.
    page.get_by_role("button", name="Roll back to v1").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("It was worse.")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Rolled back: v1 answers from now on.")
    deployments = page.get_by_role("region", name="Deployments, newest first")
    expect(deployments.locator("tbody tr").first).to_contain_text("It was worse.")
    go(page, "Overview")
    expect(card(page, "Answering now")).to_have_text("v1")
    send_and_wait(chat, "Hello again")
    expect(chat.locator("[data-message]").last).to_contain_text("v1")
    expect(chat.locator("[data-message]").first).to_contain_text("v2")


def test_a_run_s_progress_moves_without_a_reload(
    start_server: StartServer, open_page: OpenPage, votes: Path
) -> None:
    server = start_server(epochs=20, lease_seconds=6, **LENIENT)
    page = open_page(server.admin_link())
    import_votes(page, votes)
    go(page, "Training")
    page.get_by_role("button", name="Train now").click()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", re.compile(r"\d"))
    first = page.get_by_role("progressbar").get_attribute("aria-valuenow")
    page.evaluate("window.same = true")
    expect(page.get_by_role("progressbar")).not_to_have_attribute("aria-valuenow", first or "")
    assert page.evaluate("window.same") is True
    page.get_by_role("button", name="Cancel run").click()


def test_a_canary_is_tried_and_ended_and_replies_are_compared(
    admin_server: LiveServer, open_page: OpenPage, tiny_model: Path
) -> None:
    settings = admin_server.settings
    with closing(open_database(settings)) as database:
        publish_adapter(database, Artifacts(settings.data_dir), tiny_model)
    page = open_page(admin_server.admin_link())
    go(page, "Versions")
    page.get_by_role("button", name="Try as canary v2").first.click()
    version(page, "v2").get_by_label("Share of the new chats").select_option("0.25")
    page.get_by_role("button", name="Try as canary v2").last.click()
    expect(page.get_by_role("status")).to_have_text("v2 answers 25% of the chats that begin from now on.")
    expect(version(page, "v2")).to_contain_text("canary 25%")
    expect(version(page, "v1")).to_contain_text("deployed")
    canary = page.get_by_role("region", name="Canary", exact=True)
    expect(canary).to_contain_text("v2 gets 25\u202f% of the new chats, 0 so far.")
    expect(page.locator("#judgements")).to_contain_text("Canary: v2: no votes, v1: no votes.")
    confirm(canary, "End canary", "v2")
    expect(page.get_by_role("status")).to_contain_text("The canary of v2 is over")
    expect(canary).to_have_count(0)

    page.get_by_role("link", name="Compare replies").first.click()
    page.get_by_label("Message").fill("Hello")
    page.get_by_role("button", name="Compare").click()
    for name in ("v1", "v2"):
        expect(page.get_by_role("region", name=f"Reply of {name}").locator("p")).not_to_be_empty()
    with admin_server.client() as client:
        assert client.get("/api/v1/chats").json()["items"] == []  # nothing is stored


def test_data_in_and_out(admin_server: LiveServer, open_page: OpenPage, votes: Path, tmp_path: Path) -> None:
    page = open_page(admin_server.admin_link())
    assert "token" not in page.url
    expect(page.locator("code", has_text="30 4 * * *")).to_be_visible()
    expect(page.locator("p", has_text="Next: ").locator("time")).to_have_count(5)
    go(page, "Training")
    page.get_by_role("button", name="Train now").click()
    expect(page.locator("[data-live]")).to_contain_text("skipped")
    expect(page.locator("[data-live]")).to_contain_text("Not enough feedback")
    import_votes(page, votes)
    import_votes(page, votes)
    forms = {name: page.locator(f"[data-{name}]") for name in ("import", "export")}
    result = forms["import"].locator("[data-result]")
    expect(result).to_contain_text("40 were there already")

    broken = tmp_path / "broken.jsonl"
    broken.write_text(votes.read_text() + '{"prompt": "<b>Hi</b>", "completion": "", "label": true}\n')
    forms["import"].locator("input[type=file]").set_input_files(broken)
    forms["import"].get_by_role("button", name="Import").click()
    expect(result).to_contain_text("line 41")
    forms["import"].get_by_label("Leave out bad rows").check()
    forms["import"].get_by_label("Format").select_option("kto")
    forms["import"].get_by_role("button", name="Import").click()
    expect(forms["import"].get_by_role("row", name="There already 40")).to_be_visible()
    expect(forms["import"].get_by_role("row", name="Left out as bad 1")).to_be_visible()
    expect(forms["import"].get_by_role("row", name="line 41")).to_be_visible()

    own = tmp_path / "own.jsonl"
    own.write_text('{"q": "<b>Who?</b>", "a": "I", "ok": "good", "note": "x"}\n')
    forms["import"].locator("input[type=file]").set_input_files(own)
    forms["import"].get_by_label("Columns").fill("prompt=q,reply=a,label=ok")
    forms["import"].get_by_role("button", name="Preview").click()
    expect(result).to_have_text("Nothing was stored. Format: kto.")
    expect(forms["import"].get_by_role("row", name="line 1 up user: <b>Who?</b> I")).to_be_visible()
    expect(
        forms["import"].get_by_role("row", name="With the column note, which is left out 1")
    ).to_be_visible()

    forms["import"].get_by_text("Saved columns").click()
    forms["import"].get_by_label("Name", exact=True).fill("mine")
    forms["import"].get_by_role("button", name="Save columns").click()
    expect(forms["import"].locator("[data-saved]")).to_have_text("mine: prompt=q,reply=a,label=ok")
    forms["import"].get_by_label("Columns", exact=True).fill("mine")
    forms["import"].get_by_role("button", name="Preview").click()
    expect(result).to_have_text("Nothing was stored. Format: kto.")

    forms["export"].get_by_text("Which votes").click()
    forms["export"].get_by_label("Label").select_option("thumbs down")
    forms["export"].get_by_label("Model version").fill("v99")
    forms["export"].get_by_role("button", name="Export").click()
    expect(forms["export"].locator("[data-result]")).to_contain_text("v99")
    forms["export"].get_by_label("Model version").fill("")
    forms["export"].get_by_label("Format").select_option("csv")
    with page.expect_download() as download:
        forms["export"].get_by_role("button", name="Export").click()
    assert download.value.suggested_filename.endswith(".csv")
    with download.value.path().open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["false"] * 10


def test_a_person_is_erased_and_what_remembers_them_is_marked(
    start_server: StartServer, open_page: OpenPage, votes: Path
) -> None:
    server = start_server(**LENIENT, training_mode="continue")
    with server.client("user", "eve") as eve:
        for number in range(8):
            reply = http_loop.chat_once(eve, f"Question {number}")
            vote = {"label": number % 2 == 0, "tags": ["<b>odd</b>"]}
            http_loop.checked(eve.put(f"/api/v1/messages/{reply['message_id']}/vote", json=vote))
    page = open_page(server.admin_link())
    expect(page.get_by_role("row", name="v1 not enough votes")).to_contain_text("16–84")
    expect(page.get_by_role("row", name="<b>odd</b> 4 4")).to_be_visible()
    expect(page.get_by_role("img", name="Votes of the last 30 days: 4 up, 4 down")).to_be_visible()
    expect(page.get_by_role("img", name="v1: 50%, with 95 % confidence")).to_be_visible()
    import_votes(page, votes)
    go(page, "Training")
    page.get_by_role("button", name="Train now").click()
    expect(page.locator("[data-live]")).to_contain_text("succeeded", timeout=240_000)

    go(page, "People")
    person = page.get_by_label("Account name, id")
    person.fill("nobody")
    person.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("no user 'nobody'")
    go(page, "People")
    person.fill("eve")
    page.get_by_role("button", name="Preview").click()
    preview = page.get_by_role("region", name="Erase a person")
    expect(preview).to_contain_text("8 chats with 16 messages, 8 votes and 0 signals")
    expect(preview).to_contain_text("v2")
    page.get_by_role("button", name="Erase for ever").click()
    expect(page.get_by_role("status")).to_contain_text("Erased: 8 chats, 16 messages, 8 votes. Affected: v2.")
    go(page, "Versions")
    expect(version(page, "v2")).to_contain_text("remembers")
    # How many of the eight were held out and not trained on is a draw over the chats' random ids.
    expect(version(page, "v2")).to_contain_text(re.compile("trained on [1-8] votes? that"))
    expect(version(page, "v1")).not_to_contain_text("remembers")

    confirm(version(page, "v2"), "Deploy", "v2")  # a run would continue from it, and so remember
    expect(version(page, "v2")).to_contain_text("deployed")
    go(page, "Overview")
    expect(page.locator(".notice.bad")).to_contain_text("v2, which replies now, was trained on")
    go(page, "Versions")
    page.get_by_role("button", name="Retrain from base").click()
    expect(page.locator("[data-live]")).to_contain_text("succeeded", timeout=240_000)
    go(page, "Versions")
    expect(version(page, "v3")).not_to_contain_text("remembers")


def test_accounts_and_tokens(admin_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(admin_server.admin_link())
    go(page, "People")
    page.get_by_text("New account").click()
    form = page.locator("form", has=page.get_by_role("button", name="Create account"))
    form.get_by_label("Name").fill("Ada")
    form.get_by_label("Password").fill("a long password")
    form.get_by_role("button", name="Create account").click()
    expect(page.get_by_role("status")).to_have_text("Created the account Ada.")
    ada = page.get_by_role("row", name="Ada user active")
    ada.get_by_role("button", name="Role of Ada").first.click()
    ada.get_by_role("combobox").select_option("admin")
    ada.get_by_role("button", name="Role of Ada").last.click()
    expect(page.get_by_role("row", name="Ada admin active")).to_be_visible()
    confirm(page.get_by_role("row", name="Ada admin"), "Disable", "Ada")
    expect(page.get_by_role("row", name="Ada admin disabled")).to_be_visible()
    expect(page.get_by_role("row", name="admin you").get_by_role("button", name="Disable")).to_have_count(0)

    page.get_by_text("New account").click()
    form.get_by_label("Name").fill("Grace")
    form.get_by_role("button", name="Create account").click()
    guest = open_page(page.locator(".secret").inner_text(), viewport={"width": 320, "height": 640})
    guest.get_by_label("New password").fill("a chosen password")
    assert violations(guest) == []
    assert_fits(guest)
    guest.get_by_role("button", name="Choose a password").click()
    expect(guest.get_by_role("textbox", name="Message", exact=True)).to_be_visible()
    page.get_by_role("button", name="Password link for Grace").click()
    expect(page.locator(".secret")).to_contain_text("/password-link?token=tl_")
    page.set_viewport_size({"width": 320, "height": 640})
    assert violations(page) == []
    assert_fits(page)

    page.get_by_text("New token").click()
    page.get_by_label("Program").fill("robot")
    page.get_by_role("button", name="Create token").click()
    secret = page.locator(".secret").inner_text()
    with admin_server.visit(headers={"Authorization": f"Bearer {secret}"}) as robot:
        assert robot.get("/api/v1/me").json()["name"] == "robot"
        page.get_by_role("button", name="Revoke the token robot").click()
        expect(page.get_by_role("status")).to_have_text("The token is revoked.")
        assert robot.get("/api/v1/me").status_code == 401
    assert secret not in page.content()  # shown once


def test_settings_say_where_they_come_from(admin_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(admin_server.admin_link())
    go(page, "Settings")
    page.get_by_label("Find").fill("schedule")
    page.get_by_label("Find").press("Enter")
    row = page.get_by_role("row", name="THUMBLOOP_SCHEDULE")
    expect(row).to_contain_text("30 4 * * *")
    expect(row).to_contain_text("environment")
    expect(page.get_by_role("row", name="THUMBLOOP_BETA")).to_have_count(0)


def test_settings_are_changed_and_reset(admin_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(admin_server.admin_link(), **PHONE)
    page.goto(f"{admin_server.url}/admin/settings?search=temperature")
    row = page.get_by_role("row", name="THUMBLOOP_TEMPERATURE")
    page.get_by_role("button", name="Change THUMBLOOP_TEMPERATURE").tap()
    row.get_by_label("New value").fill("9")
    row.get_by_label("New value").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("less than or equal to 2")
    page.get_by_role("button", name="Change THUMBLOOP_TEMPERATURE").tap()
    row.get_by_label("New value").fill("0.2")
    assert violations(page) == []
    page.get_by_role("button", name="Save THUMBLOOP_TEMPERATURE").tap()
    expect(page.get_by_role("status")).to_contain_text("is changed")
    expect(row).to_contain_text("changed here")
    expect(row).to_contain_text("0.2")
    assert_fits(page)
    page.get_by_role("button", name="Reset THUMBLOOP_TEMPERATURE").tap()
    expect(row).not_to_contain_text("changed here")
    page.goto(f"{admin_server.url}/admin/settings?search=THUMBLOOP_AUTH")
    expect(page.get_by_role("row", name="THUMBLOOP_AUTH anonymous")).to_contain_text("who may come in")
    expect(page.get_by_role("button", name="Change THUMBLOOP_AUTH", exact=True)).to_have_count(0)


def test_only_admins_come_in(chat_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "Hello")
    with page.expect_response("**/admin/") as answer:
        page.get_by_role("link", name="Admin").click()
    assert answer.value.status == 403
    expect(page.get_by_text("thumbloop admin-link")).to_be_visible()

    page.goto(chat_server.admin_link())
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(page.locator("[data-message]")).to_have_count(1)  # the visitor's chat is there still
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("[data-message]")).to_have_count(1)
    page.get_by_role("link", name="Admin").click()
    expect(page.get_by_text("thumbloop admin-link")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["desktop", "narrow phone"])
def test_each_page_fits_and_breaks_no_rule_of_axe(
    admin_server: LiveServer, open_page: OpenPage, scheme: str, kind: str
) -> None:
    page = open_page(admin_server.admin_link(), color_scheme=scheme, **(NARROW if kind != "desktop" else {}))
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type in ("warning", "error") else None)
    page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
    for address in (*PAGES, "/admin/training/sweep", "/admin/versions/compare"):
        page.goto(f"{admin_server.url}{address}")
        assert_fits(page)
        assert violations(page) == [], address
    assert problems == []


def test_the_newest_sweep_with_its_plot(admin_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(admin_server.admin_link())
    page.goto(f"{admin_server.url}/admin/training/sweep")
    panel = page.locator("#page")
    expect(panel).to_contain_text("No sweep yet")
    folder = SweepFolder(new_folder(admin_server.settings.data_dir))
    plan = {
        "created_at": "2026-01-02T03:04:05+00:00",
        "identity": {"seed": 0},
        "training": {"up": 30, "down": 10, "pairs": 5},
        "held_out": {"up": 8, "down": 4},
        "origin": {"file": "votes.jsonl"},
        "gate_min_votes": 4,
        "grid": asdict(Grid((0.1,), ("kto", "dpo"), (5e-5, 1e-4))),
    }
    measures = {"auc": 0.9, "auc_standard_error": 0.1, "margin": 2.0, "liked_change": 1.5, "z0": 0.25}
    with folder.claimed(plan):
        for found in (measures, measures | {"auc": 0.7}):
            trial = folder.next_trial()
            folder.keep(trial, Result(Point(**trial.params), measures=found))
        folder.draw()
    page.reload()
    expect(panel).to_contain_text("8 up and 4 down held out. Best of 2 of 4 points: kto-beta-0.1-lr-5e-05.")
    cells = [text for text in panel.locator(".heat td").all_inner_texts() if text not in ("–", "")]
    assert [text for text in cells if text[0] == "0"] == ["0.900 best", "0.700"]
    row = panel.locator("tbody tr").filter(has_text="0.900 ± ")
    expect(row.locator("td")).to_have_text(
        ["1", "kto", "0.1", "5e-05", "0.900 ± 0.100", "+2.00", "+1.50", "0.25", "measured"]
    )
    expect(panel.locator("tbody tr").filter(has_text="missing")).to_have_count(2)
    loaded = panel.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    assert loaded > 0, "the page's policy lets the plot be shown"


def test_the_newest_scores_by_questions_of_two_turns(admin_server: LiveServer, open_page: OpenPage) -> None:
    page = open_page(admin_server.admin_link(), color_scheme="dark", **NARROW)
    page.goto(f"{admin_server.url}/admin/versions")
    panel = page.get_by_role("region", name="Scores by questions", exact=True)
    expect(panel).to_contain_text("thumbloop evaluate v1 v2 --questions own --judge")
    given = [Question(str(place), name, ("May I?", "Now?")) for place, name in enumerate(["math", "stem"])]
    plan = Plan.of(given, ["v1", "new=http://model/v1,m"], "v1", judge="j=http://judge/v1,m")
    lines = [
        {"version": version, "question_id": one.id, "category": one.category, "turns": [turn, turn]}
        for version, rating in (("v1", 4), ("new", 7))
        for one in given
        for turn in [{"reply": "No.", "finished": False, "rating": {"verdict": rating}, "result": "win"}]
    ]
    folder = admin_server.settings.data_dir / EVALUATIONS / plan.folder_name
    folder.mkdir(parents=True)
    report = make_report(plan, lines)
    (folder / REPORT).write_text(json.dumps(report))
    drawn = draw_scores(report, folder / PICTURE)
    broken = folder.with_name("broken")
    broken.mkdir()
    (broken / REPORT).write_text('{"versions": []}')  # the newest, and none
    page.reload()
    expect(panel).to_contain_text("j rated 2 versions from 1 to 10 on 2 questions")
    row = panel.get_by_role("row", name="new 7.00")
    expect(row.locator("td")).to_have_text(
        ["new", *["7.00 (7.00 to 7.00)"] * 3, "4, 0, 0", "+3.00 (+3.00 to +3.00)"]
    )
    expect(panel.get_by_role("row", name="stem")).to_have_text(re.compile(r"4\.00.*7\.00"))
    expect(panel).to_contain_text("new: replies that the token limit cut: 4.")
    expect(panel.locator("img")).to_have_count(int(drawn))
    assert_fits(page)
    assert violations(page) == []
    with admin_server.client() as client:
        items = http_loop.checked(client.get("/api/v1/evaluations"))["items"]
        after = {"cursor": items[-1]["id"]}
        assert http_loop.checked(client.get("/api/v1/evaluations", params=after))["items"] == []
    assert [one["id"] for one in items] == [plan.folder_name]
    assert items[0]["versions"][1]["against_baseline"]["difference"]["mean"] == 3


def test_the_guard_s_panel_says_whose_votes_were_set_aside_and_releases_them(
    admin_server: LiveServer, open_page: OpenPage
) -> None:
    with closing(open_database(admin_server.settings)) as database, database.write() as session:
        why = Reason("a phrase that few people push", "visit <b>acme</b> deals")
        person, _, _ = add_set_aside(session, admin_server.settings.model, why)
    page = open_page(admin_server.admin_link())
    go(page, "People")
    panel = page.get_by_role("region", name="Guard", exact=True)
    expect(panel).to_contain_text("Limits: no limits for a person; from THUMBLOOP_AUTH=anonymous.")
    expect(panel).to_contain_text("a phrase that few people push: “visit <b>acme</b> deals”")
    panel.get_by_role("button", name=f"Release {person.id}").click()
    expect(page.get_by_role("status")).to_contain_text("from the next run on")
    expect(panel.get_by_role("button", name=f"Release {person.id}")).to_have_count(0)
    panel.get_by_role("button", name=f"End the release of {person.id}").click()
    expect(page.get_by_role("status")).to_contain_text("The release has ended.")
    expect(panel.get_by_role("button", name=f"Release {person.id}")).to_be_visible()
    assert_fits(page)
