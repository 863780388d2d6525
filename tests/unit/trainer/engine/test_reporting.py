"""Steps reported elsewhere."""

from pathlib import Path

import pytest

from storage.errors import BadSetting
from storage.settings import Settings
from tests.support.rated_files import rated, write_rows
from trainer.engine.callbacks import reporters
from trainer.offline.train_file import OfflineTraining, train_on_file


def test_nothing_is_reported_unless_asked() -> None:
    assert reporters(Settings().report_to, Path("nowhere")) == []


@pytest.mark.parametrize(
    ("name", "remedy"), [("tensorbored", "tensorboard.* are supported"), ("comet_ml", "pip install")]
)
def test_what_cannot_be_reported_to_is_refused(name: str, remedy: str) -> None:
    with pytest.raises(BadSetting, match=f"THUMBLOOP_REPORT_TO={name}: .*{remedy}"):
        reporters([name], Path("nowhere"))


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_tensorboard_events_stay_beside_the_adapter(tmp_path: Path, tiny_model: Path, engine: str) -> None:
    pytest.importorskip("tensorboardX")
    data = write_rows(tmp_path / "rows.jsonl", map(rated, range(8)))
    settings = Settings(
        data_dir=tmp_path,
        model=str(tiny_model),
        precision="fp32",
        report_to=["tensorboard"],
        engine=engine,  # type: ignore[arg-type]
    )
    train_on_file(OfflineTraining(data, tmp_path / "out", settings, references=None))
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    written = events.read_bytes()
    for name in (b"train/loss", b"train/grad_norm", b"train/kl", b"train/rewards/margins"):
        assert written.count(name) == 2, "one of each step"
    assert b"plus" not in written
