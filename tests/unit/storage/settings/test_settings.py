"""Settings that are lists: as JSON or with commas, and the same again in a child process."""

from typing import Any

import pytest

from storage.errors import BadSetting
from storage.settings import Settings, frozen_settings, in_environment, load_settings
from storage.settings.training import TrainingSettings

SECRET = "whsec_" + "c2VjcmV0" * 4


@pytest.mark.parametrize("text", ["wrong, too long ,,", '["wrong", " too long"]'])
def test_lists_are_json_or_have_commas(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("THUMBLOOP_VOTE_TAGS", text)
    assert load_settings().vote_tags == ["wrong", "too long"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("VOTE_TAGS", '["wrong"', "not JSON"),
        ("VOTE_TAGS", "x" * 51, "at most 50"),
        ("TRAIN_ON_SIGNALS", "copied,sighed", "'sighed'"),
        ("IMPORT_WEIGHT", "0", "greater than 0"),
    ],
)
def test_what_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"THUMBLOOP_{name}", value)
    with pytest.raises(BadSetting, match=f"THUMBLOOP_{name}.*{said}"):
        load_settings()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data_policy": "window"}, "needs a number: set THUMBLOOP_WINDOW_DAYS or THUMBLOOP_WINDOW_ROWS"),
        ({"data_policy": "balanced"}, "needs a number: set THUMBLOOP_ROW_BUDGET"),
        ({"row_budget": 64}, "THUMBLOOP_ROW_BUDGET=64 is for THUMBLOOP_DATA_POLICY=balanced"),
        ({"data_policy": "balanced", "row_budget": 64, "window_days": 2}, "THUMBLOOP_WINDOW_DAYS=2 is for"),
        ({"data_policy": "balanced", "row_budget": 64, "replay_share": 0.2}, "THUMBLOOP_REPLAY_SHARE=0.2 is"),
        ({"data_policy": "balanced", "row_budget": 3}, "THUMBLOOP_ROW_BUDGET=3 is too small .* at least 4"),
    ],
)
def test_a_data_policy_and_its_numbers_go_together(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSetting, match=said) as refused:
        load_settings(webhook_url="https://a.example", webhook_secret=SECRET, **given)
    assert SECRET not in refused.value.message


def test_a_child_process_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(vote_tags=["a, b", "[c"], train_on_signals=["copied"], exclude_sources=[])
    for name, value in in_environment(given.model_dump(mode="json")).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given


def test_each_setting_of_training_says_whether_a_run_keeps_it() -> None:
    said = frozen_settings("adapter", "run", "never")
    assert set(vars(TrainingSettings)["__annotations__"]) <= said, "use a field of storage.settings.frozen"
    assert {"model", "precision", "beta"} <= frozen_settings("adapter")
