"""Several models answer, a judge rates: over HTTP, with faults, and with kills in between."""

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.judge.conversations import read_conversations
from app.judge.judge import JudgePlan, judge_pool
from app.judge.pool import PoolPlan, fill_pool
from app.judge.report import used
from storage.errors import Conflict, NotReady
from tests.support.scripted_models import (
    BROKEN,
    CUT,
    RUBBISH,
    SILENT,
    TOO_MANY,
    Script,
    asked,
    prefers_short,
)
from tests.support.threads import in_a_loop
from trainer.judge.rubric import read_rubric
from trainer.judge.servers import Server
from trainer.judge.specs import parse_server

ANSWERS = {
    "short": lambda body: f"Yes: {asked(body)}",
    "long": lambda body: f"It depends, and {'on and ' * 12} so on: {asked(body)}",
    "judge": prefers_short,
}


def prompts(folder: Path, count: int = 6) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(count)))
    return file


def quiet(_progress: dict[str, Any]) -> None:
    pass


def fill(url: str, folder: Path, *, models: tuple[str, ...] = ("short", "long"), more: str = "") -> Path:
    """The pool of these models' replies."""
    out = folder / "pool.jsonl"

    async def run() -> None:
        servers = [Server(parse_server(f"{name}={url},{name}{more}")) for name in models]
        await fill_pool(PoolPlan(read_conversations(prompts(folder))), servers, out, quiet)
        for server in servers:
            async with server:
                pass

    in_a_loop(run())
    return out


def rate(url: str, pool: Path, out: Path, *, more: str = "", **plan: Any) -> tuple[list[Any], dict[str, Any]]:
    """The judged rows and the report."""

    async def run() -> tuple[list[Any], dict[str, Any]]:
        async with Server(parse_server(f"j={url},judge{more}")) as judge:
            rubric = read_rubric("pair" if plan.get("pairwise") else "overall")
            return await judge_pool(JudgePlan(rubric, **plan), pool, judge, out, quiet)

    return in_a_loop(run())


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_replies_are_rated_and_the_report_says_by_whom(tmp_path: Path) -> None:
    script = Script(ANSWERS)
    with script.served() as url:
        pool = fill(url, tmp_path)
        rows, report = rate(url, pool, tmp_path / "judged.jsonl")
        asked_so_far = len(script.answered)
        assert rate(url, pool, tmp_path / "judged.jsonl") == (rows, report)
        assert len(script.answered) == asked_so_far, "what is finished is read again"
    assert [[reply["model"] for reply in row["replies"]] for row in lines(pool)] == [["short", "long"]] * 6
    assert [[reply["rating"] for reply in row["replies"]] for row in rows] == [[5.0, 2.0]] * 6
    assert rows == lines(tmp_path / "judged.jsonl")
    assert {author: found["mean"] for author, found in report["authors"].items()} == {"short": 5, "long": 2}
    assert report["length_correlation"] == pytest.approx(-1)
    assert report["used"]["calls"] == 12
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".part")]


def test_replies_of_the_judges_own_family_are_marked(tmp_path: Path) -> None:
    answers = {**ANSWERS, "judge-mini": ANSWERS["short"]}
    with Script(answers).served() as url:
        pool = fill(url, tmp_path, models=("judge-mini", "long"))
        _, report = rate(url, pool, tmp_path / "judged.jsonl")
    assert {author: found["own_family"] for author, found in report["authors"].items()} == {
        "judge-mini": True,
        "long": False,
    }


def test_the_mean_of_several_verdicts_counts_and_a_seed_settles_their_order(tmp_path: Path) -> None:
    def judged(seed: int) -> tuple[list[float], list[Any]]:
        ratings = itertools.cycle((5, 4, 3))
        script = Script(
            {**ANSWERS, "judge": lambda _: f'{{"reason": "It is so.", "rating": {next(ratings)}}}'}
        )
        with script.served() as url:
            rows, _ = rate(url, pool, tmp_path / "judged.jsonl", more=",at_once=1", votes=3, seed=seed)
        for file in tmp_path.glob("judged.*"):
            file.unlink()
        return [reply["rating"] for row in rows for reply in row["replies"]], [
            one["messages"] for one in script.answered
        ]

    with Script(ANSWERS).served() as url:
        pool = fill(url, tmp_path)
    means, order = judged(1)
    assert len(order) == 3 * len(means) == 36
    assert sum(means) == pytest.approx(4 * 12)
    assert judged(1) == (means, order)
    other = judged(2)[1]
    assert other != order
    assert sorted(map(str, other)) == sorted(map(str, order))


def test_a_server_gets_as_many_requests_at_once_as_it_may(tmp_path: Path) -> None:
    under_way, most, lock, two = 0, 0, threading.Lock(), threading.Barrier(2)

    def answer(body: dict[str, Any]) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        two.wait(30)  # for another that is under way
        with lock:
            under_way -= 1
        return f"Yes: {asked(body)}"

    with Script({"short": answer}).served() as url:
        fill(url, tmp_path, models=("short",), more=",at_once=2")
    assert most == 2


def test_pairs_are_compared_in_both_orders(tmp_path: Path) -> None:
    with Script(ANSWERS).served() as url:
        rows, report = rate(url, fill(url, tmp_path), tmp_path / "judged.jsonl", pairwise=True)
    assert [one["winner"] for row in rows for one in row["comparisons"]] == [0] * 6
    assert report["first_wins"] == 0.5
    assert report["ties"] == 0


def test_a_judge_that_prefers_the_first_reply_is_found_out(tmp_path: Path) -> None:
    answers = {**ANSWERS, "judge": lambda _: '{"reason": "It came first.", "winner": "A"}'}
    with Script(answers).served() as url:
        rows, report = rate(url, fill(url, tmp_path), tmp_path / "judged.jsonl", pairwise=True)
    assert [one["winner"] for row in rows for one in row["comparisons"]] == [None] * 6
    assert report["first_wins"] == 1.0
    assert report["first_wins_interval"][0] > 0.7
    assert report["ties"] == 6


def test_agreement_with_people_is_measured(tmp_path: Path) -> None:
    """A judge that likes what people like, but for one reply of eight."""
    file = tmp_path / "rated.jsonl"
    texts = [("Short.", True)] * 4 + [("word " * 40, False)] * 3 + [("Short, and wrong.", False)]
    rows = [
        {"prompt": f"Question {at}?", "completion": text, "label": label}
        for at, (text, label) in enumerate(texts)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Script(ANSWERS).served() as url:
        out = tmp_path / "pool.jsonl"
        in_a_loop(fill_pool(PoolPlan(read_conversations(file)), [], out, quiet))
        _, report = rate(url, out, tmp_path / "judged.jsonl")
    people = report["people"]
    assert people["replies"] == 8
    assert people["accuracy"] == 7 / 8
    assert people["kappa"] == pytest.approx((7 / 8 - 0.5) / 0.5)
    low, high = people["kappa_interval"]
    assert low < people["kappa"] <= high


def every(number: int, fault: str) -> Callable[[dict[str, Any], int], str | None]:
    """This fault for the first attempt at each n-th question."""
    return lambda body, attempt: fault if attempt == 0 and int(asked_number(body)) % number == 0 else None


def asked_number(body: dict[str, Any]) -> str:
    text = str(body["messages"][0]["content"])
    return text.split("Question ")[1].split("?")[0]


@pytest.mark.parametrize(
    ("fault", "counted"),
    [(TOO_MANY, "429"), (BROKEN, "500"), (CUT, "broken connection"), (SILENT, "timeout")],
)
def test_faults_are_counted_and_survived(tmp_path: Path, fault: str, counted: str) -> None:
    with Script(ANSWERS).served() as url:
        expected, _ = rate(url, fill(url, tmp_path), tmp_path / "expected.jsonl")
    with Script(ANSWERS, every(3, fault)).served() as url:
        more = ",timeout=1" if fault == SILENT else ""
        rows, report = rate(url, tmp_path / "pool.jsonl", tmp_path / "judged.jsonl", more=more)
    assert rows == expected
    faults = report["used"]["faults"]
    assert faults.keys() == {counted}
    assert faults[counted] == 4 or (fault == SILENT and faults[counted] > 4)  # of a machine that is too slow
    assert report["errors"] == 0


def test_what_cannot_be_read_is_asked_again_and_never_guessed(tmp_path: Path) -> None:
    def rubbish(body: dict[str, Any], _attempt: int) -> str | None:
        number, again = int(asked_number(body)), len(body["messages"]) > 1
        return RUBBISH if number == 1 or (number == 2 and not again) else None

    with Script(ANSWERS, rubbish).served() as url:
        rows, report = rate(url, fill(url, tmp_path), tmp_path / "judged.jsonl")
    assert [row["replies"][0]["rating"] for row in rows] == [5.0, None, 5.0, 5.0, 5.0, 5.0]
    assert rows[1]["replies"][0]["ratings"] == [{"unparsable": "Well, who can say?"}]
    assert report["unparsable"] == 2
    assert report["rated"] == 10
    assert report["used"]["faults"] == {"unreadable verdict": 6}


def test_a_server_that_refuses_structured_output_is_asked_without(tmp_path: Path) -> None:
    class Refusing(Script):
        def reply(self, handler: Any, body: dict[str, Any]) -> None:
            if "response_format" in body:
                self._send(handler, 400, {"error": {"message": "response_format is unknown"}}, {})
            else:
                super().reply(handler, body)

    with Refusing(ANSWERS).served() as url:
        rows, report = rate(url, fill(url, tmp_path), tmp_path / "judged.jsonl", more=",at_once=1")
    assert [reply["rating"] for row in rows for reply in row["replies"]] == [5.0, 2.0] * 6
    assert report["used"]["faults"] == {"400": 1, "structured output refused": 1}


def test_a_server_that_is_away_ends_the_work_which_goes_on_later(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match=r"short gave no answer: 401: .*give another one\. The same command"):
        fill_refused(tmp_path)
    part = tmp_path / "pool.jsonl.part"
    assert len(lines(part)) == 1, "nothing but the plan"
    with Script(ANSWERS).served() as url:
        fill(url, tmp_path, models=("short",))
    assert len(lines(tmp_path / "pool.jsonl")) == 6
    assert not part.exists()


def test_a_wrong_address_is_soon_known(tmp_path: Path) -> None:
    with pytest.raises(
        NotReady, match=r"no connection \(.*: is the address right, and does the server run\? "
    ):
        fill("http://127.0.0.1:1/v1", tmp_path, models=("short",))


def fill_refused(folder: Path) -> None:
    class Refusing(Script):
        def reply(self, handler: Any, _body: dict[str, Any]) -> None:
            self._send(handler, 401, {"error": {"message": "the key s3cret is wrong"}}, {})

    with Refusing(ANSWERS).served() as url:
        fill(url, folder, models=("short",))


def test_another_plan_or_a_finished_file_is_left_alone(tmp_path: Path) -> None:
    with Script(ANSWERS).served() as url:
        fill(url, tmp_path)
        with pytest.raises(Conflict, match="is there already"):
            fill(url, tmp_path)
        pool = tmp_path / "pool.jsonl"
        part = tmp_path / "judged.jsonl.part"
        another = [{"plan": {"judge": "another"}}, {"key": "k", "answer": {}}]
        part.write_text("".join(json.dumps(line) + "\n" for line in another))
        with pytest.raises(Conflict, match="has answers of another judge, pairwise, pool, rubric, seed"):
            rate(url, pool, tmp_path / "judged.jsonl")
        assert lines(part) == another
        part.write_text(json.dumps(another[0]) + "\n")
        rate(url, pool, tmp_path / "judged.jsonl")  # of a plan without an answer nothing would be lost
        edited = pool.read_text().replace("Yes: ", "Yes, ")
        pool.write_text(edited)
        with pytest.raises(Conflict, match="is there already"):
            rate(url, pool, tmp_path / "judged.jsonl")


def test_usage_and_cost_are_counted(tmp_path: Path) -> None:
    found = {}

    async def run(url: str) -> None:
        async with Server(parse_server(f"short={url},short,price=2/8")) as server:
            await server.ask([{"role": "user", "content": "Why so?"}])
            found.update(used(server))

    with Script(ANSWERS).served() as url:
        in_a_loop(run(url))
    assert (found["calls"], found["prompt_tokens"], found["completion_tokens"]) == (1, 10, 3)
    assert found["cost"] == pytest.approx((2 * 10 + 8 * 3) / 1e6)
