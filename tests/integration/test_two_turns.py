"""`thumbloop evaluate --questions`: killed and continued, own versions, and what is refused."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from storage.db.tables import Chat
from storage.registry.model_versions import ensure_base
from tests.support.command_line import CommandLine
from tests.support.live_server import wait_until
from tests.support.scripted_models import Script

SCRIPT = {
    "brief": lambda _: "No.",
    "chatty": lambda body: f"Well, {len(body['messages'])} times no.",
    "judge": lambda body: rate(body["messages"][0]["content"]),
}


def rate(question: str) -> str:
    if "<assistant_A>" not in question:
        return json.dumps({"reason": "Short.", "rating": 9 if "<reply>\nNo.\n" in question else 4})
    left = question.split("<assistant_A>")[1].split("</assistant_A>")[0]
    return json.dumps({"reason": "Short.", "winner": "A" if "Well" not in left else "B"})


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    file = tmp_path / "questions.jsonl"
    rows = [
        {"question_id": place, "category": category, "turns": [f"May I, {place}?", "And now?"]}
        for place, category in enumerate(["writing", "stem", "math"])
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_stopped_and_killed_evaluation_is_continued_to_the_same_report(
    thumbloop: CommandLine, questions: Path, tmp_path: Path
) -> None:
    script = Script(SCRIPT)
    with script.served() as url:
        models = [f"{name}={url},{name},at_once=1" for name in ("brief", "chatty")]
        words = ["evaluate", *models, "--questions", str(questions), "--baseline", "chatty"]
        words += ["--judge", f"j={url},judge,at_once=1", "--out"]
        shown = thumbloop.output(*words, str(tmp_path / "whole"))
        asked = list(script.answered)
        script.answered.clear()
        script.seconds = 0.1  # so that the kill comes in the middle
        for moment, end, code in ((5, signal.SIGINT, 130), (20, signal.SIGKILL, -signal.SIGKILL)):
            program = thumbloop.start(*words, str(tmp_path / "killed"))
            wait_until(lambda: len(script.answered) >= moment, 60, program.printed)  # noqa: B023
            program.send_signal(end)
            assert program.wait() == code
        script.seconds = 0
        assert "6, 0, 0" in thumbloop.output(*words, str(tmp_path / "killed"))
        again = thumbloop.output(*words, str(tmp_path / "killed"))
    assert len(asked) == 2 * 3 * 2 + 2 * 3 * 2 + 3 * 2 * 2
    # What each server was answering when the kill came is asked again.
    assert len(script.answered) <= len(asked) + 2 * 3
    assert "9.00 (9.00 to 9.00)" in shown
    assert "6, 0, 0" in shown
    for name in ("report.json", "replies.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "ratings\n" in shown
    assert "ratings\n" not in again, "a finished one is shown without asking"
    assert "9.00 (9.00 to 9.00)" in again
    assert (tmp_path / "whole" / "scores.png").exists()


def test_own_versions_are_asked_through_a_server(
    thumbloop: CommandLine, questions: Path, tmp_path: Path
) -> None:
    with thumbloop.database() as database, database.write() as session:
        ensure_base(session, str(thumbloop.settings["model"]))
    script = Script(SCRIPT)
    with script.served() as url:
        words = ["evaluate", "v1", "--questions", str(questions), "--judge", f"j={url},judge"]
        shown = thumbloop.output(*words, "--max-tokens", "8")
    (folder,) = (thumbloop.data_dir / "evaluations").iterdir()
    report = json.loads((folder / "report.json").read_text())
    (version,) = report["versions"]
    assert (version["version"], version["average"]["mean"]) == ("v1", 4)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()
    ]
    assert all(turn["reply"] for line in lines for turn in line["turns"])
    cut = sum(not turn["finished"] for line in lines for turn in line["turns"])
    assert version["faults"]["cut"] == cut > 0
    assert f"v1: replies that the token limit cut: {cut}." in shown
    with thumbloop.database() as database, database.read() as session:
        consents = session.exec(select(Chat.consent)).all()
    assert set(consents) == {False}, "they are no examples"


def test_bad_input_gets_one_sentence(thumbloop: CommandLine) -> None:
    by = ["--questions", "own", "--judge", "v1"]
    for words, reason in [
        (["v1", "v2"], "More than one version needs questions: add --questions own"),
        (["v1", "--judge", "v1"], "--judge needs questions: add --questions own"),
        (["v1", "--seed", "0"], "--seed needs questions"),
        (["v1", "--questions", "own"], "Nobody would rate the replies: add --judge"),
        (["v1", *by, "--against", "v1"], "use --baseline"),
        (["v1", *by[2:], "--questions", "absent"], "neither `own` nor a file"),
        (["v1", *by[:2], "--judge", "j=x"], "--judge 'j': write NAME=URL"),
        (["m=x", *by], "VERSION 'm': write NAME=URL"),
        (["v7", *by], "'v7'"),
    ]:
        assert reason in thumbloop.refused("evaluate", *words)
    assert not list(thumbloop.data_dir.glob("evaluations/*/report.json*"))
