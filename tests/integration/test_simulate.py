"""`thumbloop simulate` as people run it: stopped, killed and continued, with a taste of their own."""

import json
import signal
from pathlib import Path

import pytest

from app.simulation.simulation import Lines
from tests.support.command_line import CommandLine
from tests.support.live_server import wait_until

WORDS = ("--votes", "24", "--cycles", "2", "--measured", "4", "--people", "3", "--max-tokens", "16")


@pytest.mark.timeout(900)  # three starts of a server of its own
def test_a_simulation_that_was_stopped_and_killed_is_continued(
    thumbloop: CommandLine, tmp_path: Path
) -> None:
    taste = tmp_path / "taste.py"
    taste.write_text("def even(reply):\n    return len(reply.text) % 2 == 0\n")
    folder = tmp_path / "out"
    command = ["simulate", "--taste", f"{taste}:even", *WORDS, "--out", str(folder)]

    def votes() -> int:
        file = folder / "votes.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    first = thumbloop.start(*command)
    wait_until(votes, 240, first.printed)
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    assert "Stopped. The same command continues." in first.printed()
    before = votes()
    assert 0 < before < 24

    second = thumbloop.start(*command)
    wait_until(lambda: votes() > before, 240, second.printed)
    second.kill()
    second.wait()

    shown = thumbloop.output(*command, "--coherence-model", str(thumbloop.settings["model"]))
    assert "Report: " in shown
    report = json.loads((folder / "report.json").read_text())
    base, one, two = report["points"]
    assert (base["version"], base["votes"], one["votes"], two["votes"]) == ("v1", 0, 12, 24)
    assert two["state"] == "succeeded"
    assert all(point["measures"]["replies"] == 8 for point in report["points"])
    assert all(point["measures"]["log_probability"] < 0 for point in report["points"])
    assert base["measures"]["coherence"] == base["measures"]["log_probability"], "here it is the same model"
    lines = Lines(folder / "votes.jsonl").read()
    measured = {reply["prompt"] for reply in Lines(folder / "replies" / "v1.jsonl").read()}
    assert len(measured) == 4
    assert not measured & {line["prompt"] for line in lines}, "what is measured is unseen"
    assert len({line["message"] for line in lines}) == len(lines) == 24

    refused = thumbloop.refused(*command, "--seed", "1")
    assert "another seed" in refused
