"""Settings that are lists: as JSON or with commas, and the same again in a child process."""

import pytest

from storage.errors import BadSetting
from storage.settings import Settings, in_environment, load_settings


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


def test_a_child_process_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(vote_tags=["a, b", "[c"], train_on_signals=["copied"], exclude_sources=[])
    for name, value in in_environment(given.model_dump(mode="json")).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == given
