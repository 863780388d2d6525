"""Settings written into thumbloop.toml: what else it says stays, and what would not count is refused."""

from pathlib import Path

import pytest

from storage.errors import BadSetting, InvalidInput
from storage.settings import Settings, load_settings
from storage.settings.toml_file import FILE, write_settings

VALUES: dict[str, str | float] = {"beta": 0.3, "loss_type": "apo_zero_unpaired", "learning_rate": 2e-5}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_is_written_is_read_back() -> None:
    assert write_settings(VALUES) == [
        "beta = 0.3",
        'loss_type = "apo_zero_unpaired"',
        "learning_rate = 2e-05",
    ]
    found = load_settings()
    assert (found.beta, found.loss_type, found.learning_rate) == (0.3, "apo_zero_unpaired", 2e-5)
    assert [path.name for path in Path().iterdir()] == [FILE.name]
    assert FILE.stat().st_mode & 0o777 == 0o600


def test_comments_order_and_other_settings_stay() -> None:
    FILE.write_text(
        '# ours\nport = 8000  # behind a proxy\nbeta = 0.1\n\n# at night\nschedule = "0 3 * * *"\n'
    )
    FILE.chmod(0o640)
    write_settings({"beta": 0.5})
    assert FILE.read_text() == (
        '# ours\nport = 8000  # behind a proxy\nbeta = 0.5\n\n# at night\nschedule = "0 3 * * *"\n'
    )
    assert FILE.stat().st_mode & 0o777 == 0o640


def test_what_the_environment_would_hide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBLOOP_BETA", "0.7")
    with pytest.raises(
        InvalidInput, match="THUMBLOOP_BETA=0.7 in the environment goes before thumbloop.toml"
    ):
        write_settings(VALUES)
    assert not FILE.exists()


def test_a_file_or_a_value_that_is_wrong_is_left_alone() -> None:
    with pytest.raises(BadSetting, match="THUMBLOOP_BETA=-1"):
        write_settings({"beta": -1.0})
    assert not FILE.exists()
    assert Settings().beta == 0.1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("temprature = 1", "temprature is not a setting in thumbloop.toml. Did you mean temperature?"),
        ("THUMBLOOP_BETA = 1", "THUMBLOOP_BETA is not a setting in thumbloop.toml. Did you mean beta?"),
        ("[serving]\nbeta = 1", "serving is not a setting in thumbloop.toml. `thumbloop settings` lists"),
    ],
)
def test_a_line_that_is_no_setting_is_named(line: str, said: str) -> None:
    FILE.write_text(f"{line}\n")
    with pytest.raises(BadSetting) as refused:
        load_settings()
    assert said in refused.value.message
