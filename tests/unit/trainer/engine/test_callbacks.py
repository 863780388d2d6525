"""What stops a training by what it logs, and steps reported elsewhere."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.errors import BadSetting
from storage.settings import Settings
from tests.support.rated_files import rated, write_rows
from tests.support.trainings import tiny_settings
from trainer.engine.callbacks import ProgressCallback, reporters
from trainer.errors import Diverged
from trainer.offline.train_file import OfflineTraining, train_on_file


def test_a_loss_that_is_no_number_stops_a_training_in_fp16_too() -> None:
    """Its scaler leaves out steps whose gradients overflow; a loss overflows only where the model does."""
    args = SimpleNamespace(fp16=True, learning_rate=1e-4, beta=0.1)
    watch = ProgressCallback(lambda _state: None, 4)
    state = SimpleNamespace(global_step=3, max_steps=9, is_world_process_zero=True)
    with pytest.raises(Diverged, match=r"loss of step 3 .* THUMBLOOP_LEARNING_RATE=0.0001"):
        watch.on_log(args, state, None, logs={"loss": float("nan"), "grad_norm": float("nan")})


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
    settings = tiny_settings(tmp_path, tiny_model, report_to=["tensorboard"], engine=engine)
    train_on_file(OfflineTraining(data, tmp_path / "out", settings, references=None))
    (events,) = (tmp_path / "out" / "tensorboard").iterdir()
    written = events.read_bytes()
    for name in (b"train/loss", b"train/grad_norm", b"train/kl", b"train/rewards/margins"):
        assert written.count(name) == 2, "one of each step"
    assert b"plus" not in written
