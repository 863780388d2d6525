"""Files and folders that are there whole or not at all, whatever stops the one who writes them."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.files.atomic import write_atomically, written_aside


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_and_keeps_its_permissions_unless_it_is_private(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o640)
    write_atomically(file, "new")
    assert (file.read_text(), mode(file)) == ("new", 0o640)
    write_atomically(file, [b"pri", b"vate"], private=True)
    assert (file.read_text(), mode(file)) == ("private", 0o600)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_whatever_stops_it_leaves_nothing(tmp_path: Path, stop: type[BaseException]) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise stop

    with pytest.raises(stop):
        write_atomically(tmp_path / "file", broken())
    with pytest.raises(stop), written_aside(tmp_path / "folder", folder=True) as folder:
        write_atomically(folder / "file", broken())
    assert os.listdir(tmp_path) == []  # noqa: PTH208  hidden files count too


def test_a_folder_replaces_an_empty_one_and_none_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with written_aside(tmp_path / "folder", folder=True) as folder:
        (folder / "first").touch()
    with pytest.raises(OSError, match="not empty"), written_aside(tmp_path / "folder", folder=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "first"]


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    def killed() -> Iterator[bytes]:
        yield b"half"
        os._exit(9)

    child = os.fork()
    if child == 0:
        try:
            write_atomically(tmp_path / "file", killed())
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert not (tmp_path / "file").exists()
