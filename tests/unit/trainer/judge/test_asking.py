"""Whether a judge prefers one version's replies: in both orders, and never guessed."""

import json
from typing import Any

import pytest

from storage.errors import BadSetting
from storage.settings import load_settings
from tests.support.scripted_models import BROKEN, Script, asked, prefers_short, rated_texts
from tests.support.threads import at_once
from trainer.judge.asking import Preference, ask_preference

PROMPTS = [[{"role": "user", "content": f"Question {number}?"}] for number in range(4)]
NEW, OLD = ["Yes.", "It depends.", "Well, well.", "Same."], ["No, not at all.", "No.", "Oh, dear.", "Same."]


def preference(script: Script) -> Preference:
    with script.served() as url:
        # In a thread of its own, since a browser's tests leave an event loop in this one.
        (found,) = at_once([lambda: ask_preference(f"j={url},judge", PROMPTS, NEW, OLD)])
    return found


def test_a_reply_wins_where_both_orders_say_so_and_equal_ones_are_not_asked_about() -> None:
    script = Script({"judge": prefers_short})
    assert preference(script) == Preference("j", [0.0, 0.5, 0.5, 1.0])
    assert len(script.answered) == 6


def test_a_judge_that_prefers_what_stands_first_gives_ties() -> None:
    found = preference(Script({"judge": lambda _: json.dumps({"winner": "A"})}))
    assert found.points == [0.5] * 4


def test_what_fails_or_cannot_be_read_is_counted() -> None:
    def answer(body: dict[str, Any]) -> str:
        return "Who knows?" if "Yes." in rated_texts(body) else prefers_short(body)

    def fault(body: dict[str, Any], _attempt: int) -> str | None:
        return BROKEN if "It depends." in asked(body) else None

    found = preference(Script({"judge": answer}, fault))
    assert (found.points, found.failed) == ([0.5, 0.5], 2)


def test_a_setting_that_names_no_judge_is_refused_without_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBLOOP_GATE_JUDGE", "judge,s3cret")
    with pytest.raises(BadSetting, match=r"THUMBLOOP_GATE_JUDGE=….*write NAME=URL,MODEL") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)
