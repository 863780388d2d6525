"""`thumbloop sweep` as people run it: on a file and on votes, killed, applied, and shown to an admin."""

import csv
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from app.cli import cli
from storage.errors import InvalidInput
from storage.settings import Settings
from tests.support import http_loop
from tests.support.command_line import CommandLine
from tests.support.live_server import StartServer
from tests.support.programs import run_command
from tests.support.rated_files import write_rows
from tests.support.scripted_models import Script, asked, rated_texts
from trainer.sweep.data import FileSource
from trainer.sweep.folder import SweepFolder
from trainer.sweep.grid import Grid
from trainer.sweep.sweep import WantedSweep, run_sweep

GRID = ["--betas", "0.1,0.5", "--losses", "kto,ipo", "--learning-rates", "0.01"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """24 questions, each with a liked and a disliked reply."""
    printed = {True: "It is {}.", False: "No idea; ask another one, {}."}
    return write_rows(
        tmp_path / "rows.jsonl",
        [
            {"prompt": f"What is {n} plus {n}?", "completion": printed[label].format(2 * n), "label": label}
            for n in range(24)
            for label in (True, False)
        ],
    )


def table(folder: Path) -> list[dict[str, str]]:
    """results.csv without the seconds, which differ each time."""
    with (folder / "results.csv").open() as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def test_one_that_is_stopped_and_killed_goes_on_with_the_points_that_are_missing(
    thumbloop: CommandLine, rows: Path, tmp_path: Path
) -> None:
    command = ["sweep", "--data", str(rows), *GRID, "--out", str(tmp_path / "out")]
    first = thumbloop.start(*command)
    first.wait_for("\n2 of 4: ")
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    assert "The same command continues with the missing points." in first.printed()
    assert table(tmp_path / "out")[0]["state"] == "measured"
    second = thumbloop.start(*command)
    second.wait_for("\n1 of ")
    second.kill()
    second.wait()
    printed = thumbloop.output(*command)
    assert "Best of 4 of 4 points: " in printed
    trials = SweepFolder(tmp_path / "out").study.trials
    ended = [trial.state.name for trial in trials]
    assert (ended.count("COMPLETE"), ended.count("FAIL")) == (4, 2), "what is finished is not repeated"
    assert not list((tmp_path / "out").glob("point-*")), "what the killed one left lying"

    settings = Settings(**json.loads(json.dumps(thumbloop.settings, default=str)))
    grid = Grid((0.1, 0.5), ("kto", "ipo"), (0.01,))
    run_sweep(WantedSweep(FileSource(rows), grid, settings, tmp_path / "in one go"))
    assert table(tmp_path / "out") == table(tmp_path / "in one go")
    assert [row["rank"] for row in table(tmp_path / "out")] == ["1", "2", "3", "4"]


def test_the_winner_goes_into_the_settings(thumbloop: CommandLine, rows: Path, tmp_path: Path) -> None:
    """In a folder of its own: thumbloop.toml is that of the working directory."""
    del thumbloop.settings["learning_rate"]
    out = str(tmp_path / "out")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ("sweep", "--data", str(rows), "--out", out, *words)
        return run_command(*command, environment=thumbloop.environment, folder=tmp_path)

    refused = run(*GRID, "--budget", "0", "--apply")
    assert refused.returncode == 1
    assert "3 points are missing; the same command continues with them." in refused.stdout
    assert "Nothing was written into thumbloop.toml: 3 points are missing. --force writes" in refused.stderr
    done = run("--apply")
    assert done.returncode == 0, done.stderr
    best = next(row for row in table(tmp_path / "out") if row["loss"] == "kto")
    assert (tmp_path / "thumbloop.toml").read_text() == (
        f'beta = {best["beta"]}\nloss_type = "kto"\nlearning_rate = 0.01\n'
    )
    assert f"Wrote into {tmp_path / 'thumbloop.toml'}: beta = {best['beta']}; " in done.stdout
    thumbloop.settings["beta"] = 0.7
    hidden = run("--apply")
    assert hidden.returncode == 1
    assert "holds a sweep with another" not in hidden.stderr
    assert "THUMBLOOP_BETA=0.7 in the environment goes before thumbloop.toml" in hidden.stderr


def test_votes_are_swept_and_an_admin_sees_it(
    start_server: StartServer, thumbloop: CommandLine, rows: Path
) -> None:
    server = start_server(data_dir=thumbloop.data_dir)
    thumbloop.output("import", str(rows))
    printed = thumbloop.output("sweep", *GRID[:2], "--losses", "kto", *GRID[4:], "--budget", "0")
    with server.client() as client:
        (sweep,) = http_loop.checked(client.get("/api/v1/sweeps"))["items"]
        older = http_loop.checked(client.get("/api/v1/sweeps", params={"cursor": sweep["id"]}))
    assert older == {"items": [], "next": None}
    assert [point["state"] for point in sweep["points"]] == ["measured", "missing"]
    assert sweep["points"][0]["auc"] is not None
    assert sweep["winner"] == sweep["points"][0]["name"] == "kto-beta-0.1-lr-0.01"
    assert sweep["verdict"] in printed
    assert sweep["id"] in printed
    found = SweepFolder(thumbloop.data_dir / "sweeps" / sweep["id"]).read()
    with server.visit() as browser:
        browser.get(server.admin_link())
        page = browser.get("/admin/training/sweep").text
    assert page.count("<tr>") == 3
    assert 'src="data:image/png;base64,iVBORw' in page
    assert json.dumps(found.plan).count("plus") == 0

    thumbloop.settings |= {"gate_prompts": 6, "gate_reply_tokens": 8}
    script = Script({"judge": prefers_even})
    with script.served() as url:
        judged = ["sweep", *GRID[:2], "--losses", "kto", *GRID[4:], "--judge", f"j={url},judge"]
        thumbloop.output(*judged, "--budget", "0")
        assert len(script.answered) == 2 * 6, "the base model and one point"
        printed = thumbloop.output(*judged)
        assert len(script.answered) == 3 * 6, "what is finished is not asked again"
    assert "What is " in asked(script.answered[0]), "people's own prompts come first"
    with server.client() as client:
        sweep = http_loop.checked(client.get("/api/v1/sweeps"))["items"][0]
    assert (sweep["judge"], sweep["ranked_by"], sweep["verdict"] in printed) == ("j", "judge", True)
    rated = [json.loads(prefers_even(body))["rating"] for body in script.answered]
    means = [sum(rated[first : first + 6]) / 6 for first in (0, 6, 12)]
    assert sweep["base"]["judge"] == pytest.approx(means[0])
    assert sorted(point["judge"] for point in sweep["points"]) == pytest.approx(sorted(means[1:]))
    best = sweep["points"][0]
    assert best["judge_low"] <= best["judge"] <= best["judge_high"]
    # The folder is enough to see it again; the judge is away.
    folder = thumbloop.data_dir / "sweeps" / sweep["id"]
    assert sweep["verdict"] in thumbloop.output("sweep", "--out", str(folder))
    with server.visit() as browser:
        browser.get(server.admin_link())
        page = browser.get("/admin/training/sweep").text
    assert '<th scope="col">Rating</th>' in page
    assert "The rating is what j gives sampled replies" in page


def prefers_even(body: dict[str, Any]) -> str:
    """A judge that likes what has an even number of letters."""
    return json.dumps({"reason": "Counted.", "rating": 5 - 2 * (len(rated_texts(body)[0]) % 2)})


MISUSED = {
    "rows without a file": (["--max-rows", "3"], "--max-rows is for a sweep on a file"),
    "a loss that is none": (["--losses", "kto,ppo"], "--losses ppo: the losses are kto"),
    "a number that is none": (["--betas", "0.1,much"], "--betas 0.1,much: give numbers separated by commas"),
    "no number": (["--learning-rates", ","], "--learning-rates has no value"),
    "points of a grid": (["--points", "3"], "--points is for --sampler random or tpe"),
    "a rank without a judge": (["--rank", "judge"], "--rank judge: name the judge with --judge"),
    "a judge that is none": (["--judge", "j=x"], "--judge 'j': write NAME=URL,MODEL"),
    "force alone": (["--force"], "--force is for --apply"),
}


@pytest.mark.parametrize(("words", "reason"), MISUSED.values(), ids=MISUSED)
def test_options_that_make_no_sense_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        typer.main.get_command(cli)(["sweep", *words], standalone_mode=False)
