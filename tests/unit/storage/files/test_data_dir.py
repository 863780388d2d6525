"""The data directory is its owner's alone, or a start refuses it."""

import logging
import os
import tempfile
from pathlib import Path

import pytest

from storage.backup import back_up
from storage.db.database import open_database
from storage.errors import NotReady
from storage.files.data_dir import is_open, make_data_dir
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.programs import run_command

NOBODY = 65534


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_data_directory_is_private_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        make_data_dir(tmp_path / "data")
    finally:
        os.umask(before)
    assert mode(tmp_path / "data") == 0o700


@pytest.mark.parametrize("open_to", [0o755, 0o750, 0o711])
def test_a_start_makes_the_data_directory_private_and_says_so(
    tmp_path: Path, open_to: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    (folder / "adapters").mkdir(parents=True)
    (folder / "lost+found").mkdir()
    folder.chmod(open_to)
    assert is_open(folder)
    with caplog.at_level(logging.INFO, logger="thumbloop.storage"):
        open_database(Settings(data_dir=folder)).close()
        open_database(Settings(data_dir=folder)).close()
    assert mode(folder) == 0o700
    assert [record.getMessage() for record in caplog.records] == [
        f"The mode of {folder} is now 0700: it was {open_to:04o}, so others could read it."
    ]


def test_each_file_of_a_used_data_directory_is_known(tmp_path: Path) -> None:
    """Otherwise a directory that was made private by hand and copied with another mode would be refused."""
    folder = tmp_path / "data"
    database = open_database(Settings(data_dir=folder))
    with database.read():
        folder.chmod(0o755)
        assert is_open(folder)
    database.close()


def test_a_data_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    for shared in (0o777, 0o770, 0o1777):
        tmp_path.chmod(shared)
        with pytest.raises(NotReady, match=rf"\(mode {shared:04o}\) can be written by others.*`chmod 700"):
            make_data_dir(tmp_path)
        assert mode(tmp_path) == shared


def test_a_folder_with_other_files_is_not_made_private(tmp_path: Path) -> None:
    (tmp_path / ".profile").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(NotReady, match=r"\(mode 0755\) can be read by others and holds .profile"):
        make_data_dir(tmp_path)
    assert mode(tmp_path) == 0o755
    tmp_path.chmod(0o700)
    make_data_dir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_data_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(NotReady, match="belongs to another user.*`chown 0 "):
        make_data_dir(tmp_path)


@pytest.mark.parametrize("name", ["adapters", "runs", "trash", "models", "sweeps"])
def test_a_file_in_place_of_a_folder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(NotReady, match=f"/{name} is no folder.*Move it away"):
        make_data_dir(tmp_path)


@pytest.mark.parametrize(
    "name", ["thumbloop.db", "secret.key", "installation.id", "device.lock", "references.db"]
)
def test_a_folder_or_a_broken_link_in_place_of_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(NotReady, match=f"/{name} is no file"):
        open_database(Settings(data_dir=tmp_path))
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(NotReady, match=f"/{name} is no file"):
        open_database(Settings(data_dir=tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("name", ["secret.key", "adapters"])
def test_what_this_account_cannot_read_is_refused_by_name(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # others can reach this one
        path = Path(folder) / name
        path.mkdir() if name == "adapters" else path.touch()
        path.chmod(0)
        os.chown(folder, NOBODY, -1)
        child = os.fork()
        if child == 0:  # an ordinary account, as root reads everything
            refused = False
            try:
                os.setuid(NOBODY)
                make_data_dir(Path(folder))
            except NotReady as error:
                refused = error.message.startswith(f"{path} cannot be read")
            finally:
                os._exit(0 if refused else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_foreign_files_beside_what_is_ours_are_left_alone(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path)
    strays = [
        tmp_path / name for name in (".DS_Store", "adapters/.DS_Store", "runs/notes", "trash/.nfs01", "hub/x")
    ]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.touch()
        os.utime(stray, (0, 0))
    settings = Settings(data_dir=tmp_path)
    open_database(settings).close()
    assert artifacts.sweep([]) == []
    assert artifacts.empty_trash(days=1) == []
    assert artifacts.run_folder("r").is_dir()
    back_up(settings, tmp_path / "backup.tar")
    assert all(stray.exists() for stray in strays)


def test_the_server_refuses_it_in_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"THUMBLOOP_DATA_DIR": str(tmp_path), "THUMBLOOP_PORT": "0"}
    tmp_path.chmod(0o777)
    for command, code, stream in (("serve", 2, "stderr"), ("doctor", 1, "stdout")):
        done = run_command(command, environment=environment)
        assert done.returncode == code
        assert f"{tmp_path} (mode 0777) can be written by others." in getattr(done, stream)
        assert "Traceback" not in done.stderr
    (tmp_path / "adapters").touch()
    tmp_path.chmod(0o700)
    done = run_command("serve", environment=environment)
    assert done.returncode == 2
    assert f"thumbloop: {tmp_path}/adapters is no folder" in done.stderr
    assert "Traceback" not in done.stderr
