"""The output folder: what it refuses, and what it leaves alone."""

from pathlib import Path

import pytest

from storage.errors import Conflict
from trainer.offline.out_folder import OutFolder


def finish(folder: Path) -> None:
    out = OutFolder(folder)
    with out.claimed({"seed": 0}) as resumed:
        assert not resumed
        (out.new_staging() / "lineage.json").write_text("{}")
        out.publish()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("thesis.txt", "is not empty"), (".done/mine", "is not empty"), ("lineage.json", "holds a finished")],
)
def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path, name: str, reason: str) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("Do not touch.")
    with pytest.raises(Conflict, match=f"{tmp_path}/out {reason}"):
        OutFolder(tmp_path / "out")
    assert file.read_text() == "Do not touch."
    with pytest.raises(Conflict, match="is a file"):
        OutFolder(file)


def test_an_empty_folder_is_accepted_and_a_finished_one_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    late = OutFolder(tmp_path / "out")
    finish(tmp_path / "out")
    with pytest.raises(Conflict, match="holds a finished adapter"), late.claimed({"seed": 0}):
        pytest.fail("it was claimed")
    (tmp_path / "out" / ".done" / "checkpoints").mkdir(parents=True)  # of a kill at the end of publish
    with pytest.raises(Conflict, match="holds a finished adapter"):
        OutFolder(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lineage.json"]


def test_one_process_at_a_time_and_one_training_only(tmp_path: Path) -> None:
    with (
        OutFolder(tmp_path / "out").claimed({"seed": 0}),
        pytest.raises(Conflict, match="Another process is training into"),
        OutFolder(tmp_path / "out").claimed({"seed": 0}),
    ):
        pytest.fail("two processes have it")
    with OutFolder(tmp_path / "out").claimed({"seed": 0}) as resumed:
        assert resumed
    with (
        pytest.raises(Conflict, match="unfinished training with another beta, seed"),
        OutFolder(tmp_path / "out").claimed({"seed": 1, "beta": 0.5}),
    ):
        pytest.fail("it belongs to another training")
