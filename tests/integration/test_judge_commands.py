"""`thumbloop pool` and `judge` as people run them: killed in between, into files, and into the store."""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from storage.chats.stats import version_stats
from storage.chats.votes import latest_event_id
from storage.db.tables import Chat, Message
from storage.examples.example import Examples
from tests.support.command_line import CommandLine
from tests.support.live_server import StartServer, wait_until
from tests.support.scripted_models import Script, asked, prefers_short, rated_texts

KILLS = 5  # of each command
QUESTIONS = 40
ANSWERS = {
    "short": lambda body: f"Yes: {asked(body)}",
    "long": lambda body: f"It depends, and {'on and ' * 16} so on: {asked(body)}",
    "judge": prefers_short,
}


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    rows = [{"question": f"Question {number}?", "system": "Be kind."} for number in range(QUESTIONS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def journal(part: Path) -> list[dict[str, Any]]:
    """The answers so far; a line that a kill cut is none."""
    if not part.exists():
        return []
    lines = part.read_text().split("\n")[1:-1]
    return [json.loads(line) for line in lines]


def killed_again_and_again(
    command: CommandLine, words: list[str], part: Path, script: Script, known: Callable[[Any], str]
) -> None:
    """Kill the command five times, each time after some more answers, and run it to its end.

    `known` names the request behind a line of the journal, as `request` does. Nothing that was in the journal
    at a kill may be asked again.
    """
    draw = random.Random(len(words))
    kept: set[str] = set()
    for _ in range(KILLS):
        before, wanted = len(script.answered), len(kept) + draw.randint(1, 6)
        program = command.start(*words)
        wait_until(lambda wanted=wanted: len(journal(part)) >= wanted, 60, program.printed)
        program.kill()
        program.wait()
        assert not kept & {request(body) for body in script.answered[before:]}
        kept = {known(line) for line in journal(part)}
    command.run(*words)


def request(body: dict[str, Any]) -> str:
    texts = rated_texts(body)
    return texts[0] if texts else f"{body['model']} {asked(body)}"


def test_ten_kills_change_nothing_and_no_answer_is_asked_for_twice(
    thumbloop: CommandLine, prompts: Path, tmp_path: Path
) -> None:
    script = Script(ANSWERS, seconds=0.15)  # slow enough for a kill in between
    with script.served() as url:
        models = [f"--model={name}={url},{name},at_once=2" for name in ("short", "long")]
        pool = ["pool", "--prompts", str(prompts), *models]
        judge = ["judge", "--judge", f"j={url},judge,at_once=2", "--votes", "1"]
        thumbloop.run(*pool, "--out", str(tmp_path / "whole.jsonl"))
        thumbloop.run(*judge, str(tmp_path / "whole.jsonl"), "--out", str(tmp_path / "rated.jsonl"))

        out = tmp_path / "pool.jsonl"
        texts = {json.loads(line)["id"]: json.loads(line) for line in (tmp_path / "whole.jsonl").open()}

        def of_pool(line: dict[str, Any]) -> str:
            conversation, model, _ = line["key"].split()
            return f"{model} {texts[conversation]['prompt'][-1]['content']}"

        killed_again_and_again(
            thumbloop, [*pool, "--out", str(out)], tmp_path / "pool.jsonl.part", script, of_pool
        )
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()

        def of_judge(line: dict[str, Any]) -> str:
            conversation, place, _ = line["key"].split()
            return str(texts[conversation]["replies"][int(place)]["content"])

        judged = tmp_path / "judged.jsonl"
        words = [*judge, str(out), "--out", str(judged)]
        killed_again_and_again(thumbloop, words, tmp_path / "judged.jsonl.part", script, of_judge)
        assert judged.read_bytes() == (tmp_path / "rated.jsonl").read_bytes()


def test_kills_while_an_own_version_answers_change_nothing(
    start_server: StartServer, thumbloop: CommandLine, prompts: Path, tmp_path: Path
) -> None:
    """The version is asked through the server that runs; nothing that was in the file is asked again."""
    thumbloop.settings["port"] = start_server(data_dir=thumbloop.data_dir).settings.port
    asked_for = select(Message.content).join(Chat).where(Message.role == "user", Chat.source == "openai")

    def requests() -> Counter[str]:
        with thumbloop.database() as database, database.read() as session:
            return Counter(session.exec(asked_for).all())

    script = Script(ANSWERS, seconds=0.1)
    with script.served() as url:
        words = [
            "pool",
            "--prompts",
            str(prompts),
            "--model",
            "v1,top_p=0.9",
            "--model",
            f"short={url},short,at_once=2",
        ]
        words += ["--max-tokens", "12", "--out"]
        thumbloop.run(*words, str(tmp_path / "whole.jsonl"))
        assert set(requests().values()) == {1}
        out, draw = tmp_path / "pool.jsonl", random.Random(7)
        for _ in range(3):
            wanted = len(journal(out.with_suffix(".jsonl.part"))) + draw.randint(1, 12)
            program = thumbloop.start(*words, str(out))
            wait_until(lambda: len(journal(out.with_suffix(".jsonl.part"))) >= wanted, 60, program.printed)  # noqa: B023
            program.kill()
            program.wait()
        thumbloop.run(*words, str(out))
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    twice = sum(requests().values()) - 2 * QUESTIONS
    assert 0 <= twice <= 3 * 8, "only what was under way at a kill, eight at a time, was asked again"
    with thumbloop.database() as database, database.read() as session:
        assert set(session.exec(select(Chat.consent)).all()) == {False}


def test_examples_go_into_files_and_into_the_store_apart_from_votes(
    thumbloop: CommandLine, prompts: Path, tmp_path: Path
) -> None:
    pool, kto, pairs = (tmp_path / f"{name}.jsonl" for name in ("pool", "kto", "pairs"))
    with Script(ANSWERS).served() as url:
        models = [f"--model={name}={url},{name}" for name in ("short", "long")]
        thumbloop.run("pool", "--prompts", str(prompts), *models, "--out", str(pool))
        files = ["--kto", str(kto), "--pairs", str(pairs)]
        printed = thumbloop.output("judge", str(pool), "--judge", f"j={url},judge", *files, "--store")
    assert f"{2 * QUESTIONS} rated replies were imported, 0 were there." in printed
    assert f"{QUESTIONS} pairs: {pairs}\nKTO rows, {QUESTIONS} good and {QUESTIONS} bad: {kto}\n" in printed
    crossed = ["judge", str(pool), "--judge", "v1", "--up-from", "2", "--down-to", "4"]
    assert "--up-from 2 is not above --down-to 4" in thumbloop.refused(*crossed)
    wrong = ["judge", str(pool), "--judge", "v1,colour=3", "--out", str(tmp_path / "other")]
    assert "--judge v1: 'colour' is not one of temperature" in thumbloop.refused(*wrong)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert {(row["chosen_model"], row["rejected_model"]) for row in rows} == {("short", "long")}
    assert {(row["rating_chosen"], row["rating_rejected"]) for row in rows} == {(5, 2)}
    assert len(rows) == QUESTIONS
    # The same rows are there already, also as a file, and from pairs as well.
    assert thumbloop.output("import", str(kto)).splitlines()[-1].startswith(f"0 imported, {2 * QUESTIONS} ")
    assert thumbloop.output("import", str(pairs)).splitlines()[-1].startswith(f"0 imported, {2 * QUESTIONS} ")
    with thumbloop.database() as database, database.read() as session:
        found = list(Examples(session, latest_event_id(session)).iterate())
        assert Counter((one.source, one.label) for one in found) == {
            ("judge:j", True): QUESTIONS,
            ("judge:j", False): QUESTIONS,
        }
        assert version_stats(session) == []
