"""A judge's mean rating: with its interval, and never of what it did not say."""

from collections.abc import Callable
from typing import Any

import pytest

from storage.errors import NotReady
from tests.support.scripted_models import BROKEN, NO_KEY, RUBBISH, SILENT, Script, prefers_short, rated_texts
from tests.support.threads import at_once
from trainer.errors import Interrupted
from trainer.judge.ratings import Ratings, rate_replies
from trainer.judge.specs import parse_server

REPLIES = ["Yes.", "It depends, " * 12, "No.", "Who knows?"]  # rated 5, 3, 5, 5
ASKED = [[{"role": "user", "content": "May I?"}]] * len(REPLIES)


def rated(script: Script, progress: Callable[[int], None] = lambda _: None) -> Ratings:
    with script.served() as url:
        spec = parse_server(f"j={url},judge")
        (found,) = at_once([lambda: rate_replies(spec, ASKED, REPLIES, progress)])
    return found


def test_what_cannot_be_read_or_is_not_answered_is_counted() -> None:
    def fault(body: dict[str, Any], _attempt: int) -> str | None:
        return {"No.": BROKEN, "Who knows?": RUBBISH}.get(rated_texts(body)[0])

    found = rated(Script({"judge": prefers_short}, fault))
    assert (sorted(found.values), found.failed) == ([3, 5], 2)
    assert found.faults == {"500": 7, "unreadable verdict": 2}
    measures = found.to_measures()
    assert measures["judge"] == 4
    assert measures["judge_standard_error"] == pytest.approx(1)
    assert (measures["judge_low"], measures["judge_high"], measures["judge_failed"]) == (3, 5, 2)


@pytest.mark.parametrize(
    ("fault", "reason"), [(NO_KEY, "j gave no answer: 401"), (RUBBISH, "No answer of j has a rating")]
)
def test_a_judge_without_a_single_rating_is_an_error(fault: str, reason: str) -> None:
    with pytest.raises(NotReady, match=reason):
        rated(Script({"judge": prefers_short}, lambda _body, _attempt: fault))


def test_the_progress_may_stop_it_even_if_the_judge_says_nothing() -> None:
    def stop(done: int) -> None:
        assert done == 0
        raise Interrupted("terminated")

    script = Script({"judge": prefers_short}, lambda _body, _attempt: SILENT)
    with pytest.raises(Interrupted):
        rated(script, stop)
    assert sum(script.attempts.values()) <= len(REPLIES), "before the silence ended and was asked again"
