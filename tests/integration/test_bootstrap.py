"""`thumbloop bootstrap` on a tiny model, to a version that the judge has rated."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from storage.chats.votes import latest_event_id
from storage.examples.example import Examples
from tests.support.command_line import CommandLine
from tests.support.scripted_models import Script, rated_texts
from tests.support.training_env import LENIENT
from trainer.gate.comparison import HARMS


def taste(body: dict[str, Any]) -> str:
    """A judge that likes what has an even number of letters."""
    return json.dumps({"reason": "Counted.", "rating": 5 - 4 * (len(rated_texts(body)[0]) % 2)})


@pytest.mark.timeout(600)
def test_a_first_version_without_votes(thumbloop: CommandLine, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "work"
    prompts.write_text("".join(json.dumps({"prompt": f"Why {number}?"}) + "\n" for number in range(28)))
    harmless = {f"gate_{harm.name}_tolerance": 100 for harm in HARMS}  # random weights write what they write
    thumbloop.settings |= {**LENIENT, **harmless, "gate_prompts": 4}
    script = Script({"judge": taste})
    with script.served() as url:
        words = ["bootstrap", "--judge", f"j={url},judge", "--prompts", str(prompts), "--out", str(out)]
        words += ["--unseen", "4", "--max-tokens", "12", "--samples", "1"]
        planned = thumbloop.start(*words)
        assert planned.wait() == 1
        assert "40 replies of v1 and of the new version, each rated by j: 80 calls" in planned.printed()
        assert "if a call takes own versions 12 s (8 at once), j 3 s (8 at once)." in planned.printed()
        assert "No terminal to ask" in planned.printed()
        printed = thumbloop.output(*words, "--yes")
        asked = len(script.answered)
        again = thumbloop.output(*words, "--yes")
        assert len(script.answered) == asked, "a second time nothing is asked"
        assert again.splitlines()[-3:] == printed.splitlines()[-3:]
        assert "has a bootstrap with another samples" in thumbloop.refused(*words, "--samples", "2", "--yes")

    report = json.loads((out / "report.json").read_text())
    assert {name: one["replies"] for name, one in report["versions"].items()} == {"v1": 8, "v2": 8}
    assert report["run"]["up"] + report["run"]["down"] == 24
    with thumbloop.database() as database, database.read() as session:
        found = Counter(one.source for one in Examples(session, latest_event_id(session)).iterate())
    assert found == {"judge:j": report["run"]["new"]}, "and no reply that was asked for counts as a chat"
