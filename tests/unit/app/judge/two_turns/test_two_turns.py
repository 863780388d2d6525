"""Scripted models answer questions of two turns over HTTP, and a scripted judge rates them: all by hand."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.judge.two_turns.evaluation import Evaluation
from app.judge.two_turns.picture import draw_scores
from app.judge.two_turns.plan import Plan
from app.judge.two_turns.questions import Question
from app.judge.two_turns.report import evaluate_in, finished_report
from storage.errors import Conflict, InvalidInput
from storage.registry.evaluations import EVALUATIONS, finished_evaluations
from tests.support.scripted_models import REFUSED, RUBBISH, Script, asked
from tests.support.threads import in_a_loop
from trainer.judge.servers import Server
from trainer.judge.specs import parse_server

# What each version's replies are worth, and say: of the first turns and of the second ones.
WORTH = {"old": ([5, 5, 5, 5], [3, 3, 3, 3]), "new": ([2, 4, 6, 8], [1, 3, 5, 7])}
QUESTIONS = [
    Question(f"q{place}", category, (f"First {place}", f"Second {place}"), reference)
    for place, (category, reference) in enumerate(
        [("math", ("right one", "right two")), ("math", None), ("writing", ("", "late")), ("writing", None)]
    )
]


def reply(body: dict[str, Any]) -> str:
    turn, place = asked(body).split()
    return f"worth {WORTH[body['model']][turn == 'Second'][int(place)]}"


def judge(body: dict[str, Any]) -> str:
    question = body["messages"][0]["content"]
    if rated := re.search(r"<reply>\nworth (\d)\n</reply>", question):
        return json.dumps({"reason": "It says so.", "rating": int(rated[1])})
    left, right = (
        max(re.findall(r"worth (\d)", shown)[-1:])
        for shown in re.findall(r"<assistant_[AB]>\n(.*?)</assistant", question, re.DOTALL)
    )
    return json.dumps(
        {"reason": "Worth.", "winner": "tie" if left == right else "A" if left > right else "B"}
    )


def by_place(body: dict[str, Any]) -> str:
    return judge(body) if "<reply>" in body["messages"][0]["content"] else '{"winner": "A"}'


SCRIPT = {"old": reply, "new": reply, "judge": judge, "by place": by_place}


def planned(url: str, versions: Sequence[str] = ("old", "new"), by: str = "judge", **more: Any) -> Plan:
    given = [f"{name}={url},{name}" for name in versions]
    return Plan.of(QUESTIONS, given, more.pop("baseline", "old"), judge=f"j={url},{by}", **more)


def evaluate(folder: Path, plan: Plan) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        servers = [Server(parse_server(given)) for given in (*plan.versions, plan.judge)]
        try:
            return await evaluate_in(folder, Evaluation(plan, servers[:-1], servers[-1]), lambda _: None)
        finally:
            for server in servers:
                async with server:
                    pass

    return in_a_loop(run())


def lines(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "replies.jsonl").read_text().splitlines()]


def numbers(found: dict[str, float]) -> tuple[float, ...]:
    return tuple(found.values())


def test_scores_and_intervals_are_those_computed_by_hand(tmp_path: Path) -> None:
    script = Script(SCRIPT)
    with script.served() as url:
        report = evaluate(tmp_path, planned(url))
    assert report == json.loads((tmp_path / "report.json").read_text())
    old, new = report["versions"]
    assert (old["version"], numbers(old["first"]), numbers(old["second"])) == (
        "old",
        (5, 5, 5, 4),
        (3, 3, 3, 4),
    )
    # Of the 256 ways to draw four of 2, 4, 6, 8, five have a mean below 3 (2.0 %), and ten one of 3.
    assert numbers(new["first"]) == (5, 3, 7, 4)
    assert numbers(new["second"]) == (4, 2, 6, 4)
    assert numbers(new["average"]) == (4.5, 2.5, 6.5, 4)
    # Of the four ways to draw two, a quarter takes the lower value twice, and a quarter the higher one.
    assert numbers(new["categories"]["math"]["first"]) == (3, 2, 4, 2)
    assert numbers(new["categories"]["writing"]["average"]) == (6.5, 5.5, 7.5, 2)
    against = new["against_baseline"]
    assert {name: against[name] for name in ("win", "tie", "loss", "by_place", "no_result")} == {
        "win": 4,
        "tie": 1,
        "loss": 3,
        "by_place": 0,
        "no_result": 0,
    }
    assert against["win_rate"]["mean"] == (0 + 0.25 + 1 + 1) / 4
    assert numbers(against["difference"]) == (0.5, -1.5, 2.5, 4)
    assert "against_baseline" not in old
    assert not any(old["faults"].values())
    assert draw_scores(report, tmp_path / "scores.png")
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert len(script.answered) == 2 * 8 + 2 * 8 + 8 * 2


def test_the_second_turn_goes_on_from_the_first_and_is_judged_with_it(tmp_path: Path) -> None:
    script = Script(SCRIPT)
    with script.served() as url:
        evaluate(tmp_path, planned(url))
    (second,) = [one for one in script.answered if one["model"] == "new" and asked(one) == "Second 0"]
    assert [message["content"] for message in second["messages"]] == ["First 0", "worth 2", "Second 0"]
    temperatures = {asked(one): one["temperature"] for one in script.answered if one["model"] == "new"}
    assert (temperatures["Second 0"], temperatures["First 2"]) == (0, 0.7)
    judged = [one["messages"][0]["content"] for one in script.answered if one["model"] == "judge"]
    rated = [
        text for text in judged if "<reply>" in text and "[assistant]\nworth 2\n[user]\nSecond 0" in text
    ]
    assert len(rated) == 1
    assert "[1]\nright one\n\n[2]\nright two" in rated[0]
    given = {
        name: {"<right_answer>" in text for text in judged if f"\n{name}\n" in text and "Second" not in text}
        for name in ("First 0", "First 1", "First 2")
    }
    assert given == {"First 0": {True}, "First 1": {False}, "First 2": {False}}
    assert all("[1]\nnot given\n\n[2]\nlate" in text for text in judged if "Second 2" in text)
    compared = [text for text in judged if "<assistant_A>" in text and "Second 0" in text]
    both = "[1]\nworth {}\n\n[2]\nworth {}"
    assert {text.split("<assistant_A>\n")[1].split("\n</assistant_A>")[0] for text in compared} == {
        both.format(5, 3),
        both.format(2, 1),
    }
    assert all("right two" in text for text in compared)


def test_a_judge_that_prefers_a_place_gives_ties_that_are_counted(tmp_path: Path) -> None:
    with Script(SCRIPT).served() as url:
        report = evaluate(tmp_path, planned(url, by="by place"))
    against = report["versions"][1]["against_baseline"]
    assert (against["win"], against["tie"], against["loss"], against["by_place"]) == (0, 8, 0, 8)


def test_rubbish_is_asked_once_more_and_counted_never_guessed(tmp_path: Path) -> None:
    def faults(body: dict[str, Any], _attempt: int) -> str | None:
        question = str(body["messages"][0]["content"])
        first = re.search(r"\nFirst 3\n", question) and "Second 3" not in question
        return RUBBISH if body["model"] == "judge" and first and "worth 8" in question else None

    script = Script(SCRIPT, faults)
    with script.served() as url:
        report = evaluate(tmp_path, planned(url))
    new = report["versions"][1]
    assert (new["first"]["mean"], new["first"]["questions"]) == (4, 3)
    assert (new["second"]["mean"], new["second"]["questions"]) == (4, 4)
    assert (new["average"]["mean"], new["average"]["questions"]) == (3.5, 3)
    assert new["faults"]["unparsable_ratings"] == 1
    assert (new["against_baseline"]["win"], new["against_baseline"]["no_result"]) == (3, 1)
    (line,) = [one for one in lines(tmp_path) if one["version"] == "new" and one["question_id"] == "q3"]
    assert line["turns"][0]["rating"] == {"unparsable": "Well, who can say?"}
    asked_again = [one for one in script.answered if len(one["messages"]) == 3 and one["model"] == "judge"]
    assert len(asked_again) == 3, "one rating, and both orders of one comparison"


def test_a_reply_that_never_came_is_counted_with_the_turn_after_it(tmp_path: Path) -> None:
    def faults(body: dict[str, Any], _attempt: int) -> str | None:
        return REFUSED if body["model"] == "new" and asked(body) == "First 1" else None

    with Script(SCRIPT, faults).served() as url:
        report = evaluate(tmp_path, planned(url))
    new = report["versions"][1]
    assert new["faults"]["no_reply"] == 2
    assert (new["first"]["mean"], new["second"]["mean"]) == ((2 + 6 + 8) / 3, (1 + 5 + 7) / 3)
    assert new["against_baseline"]["no_result"] == 2
    assert numbers(new["categories"]["math"]["first"]) == (2, 2, 2, 1)
    (line,) = [one for one in lines(tmp_path) if one["version"] == "new" and one["question_id"] == "q1"]
    assert "planted 400" in line["turns"][0]["error"]
    assert line["turns"][1] == {"error": "there is no first reply to go on from"}


def test_a_finished_evaluation_is_found_again_and_another_one_refused(tmp_path: Path) -> None:
    folder = tmp_path / EVALUATIONS / "a"
    with Script(SCRIPT).served() as url:
        plan = planned(url, baseline=None)
        assert finished_report(folder, plan) is None
        assert not list(finished_evaluations(tmp_path))
        report = evaluate(folder, plan)
        (found,) = finished_evaluations(tmp_path)
        assert (found.name, finished_report(folder, plan)) == ("a", found.report)
        assert found.report == report
        other = planned(url)
        assert finished_report(folder, other) is None
        assert plan.folder_name != other.folder_name
        with pytest.raises(Conflict, match="report.json is there already"):
            evaluate(folder, other)
    assert report["baseline"] is None
    assert all("against_baseline" not in version for version in report["versions"])


def test_a_baseline_that_is_no_version_becomes_one() -> None:
    plan = Plan.of(QUESTIONS, ["v2"], "v1", judge="j=http://x/v1,j")
    assert (plan.versions, plan.baseline) == (["v1", "v2"], "v1")
    with pytest.raises(InvalidInput, match="v1: name another version to compare"):
        Plan.of(QUESTIONS, ["v1"], "v1", judge="j=http://x/v1,j")
    with pytest.raises(InvalidInput, match="v2 is given twice"):
        Plan.of(QUESTIONS, ["v2", "v2=http://x/v1,m"], None, judge="j=http://x/v1,j")
