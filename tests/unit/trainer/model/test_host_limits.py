"""What is left for a training: memory within a container's limits, and a full disk in libraries' words."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.model.host_limits import free_memory, is_full

MIB = 2**20


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file may grow beyond a kilobyte."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def write_checkpoint(file: Path) -> None:
    torch.save(torch.zeros(10_000), file)


WRITES: dict[str, Callable[[Path], object]] = {
    "text": lambda file: file.write_text("x" * 10_000),
    "checkpoint": write_checkpoint,
    "adapter": lambda file: save_file({"weight": torch.zeros(10_000)}, file),
}


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_full_disk_is_recognised(write: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises((OSError, RuntimeError, SafetensorError)) as caught:
        write(tmp_path / "file")
    assert is_full(caught.value)


def test_what_else_goes_wrong_with_a_file_is_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"not what it should be")
    with pytest.raises(SafetensorError) as broken:
        load_file(tmp_path / "broken")
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "missing").read_text()
    with pytest.raises(RuntimeError) as other:
        torch.ones(2) @ torch.ones(3)
    with pytest.raises(RuntimeError) as nowhere:
        write_checkpoint(Path("/proc/checkpoint"))  # torch looks for a missing folder before it opens
    assert not any(is_full(one.value) for one in (broken, missing, other, nowhere))


def group(folder: Path, version: int, limit: str, usage: int, files: int) -> None:
    names = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names[version], (limit, usage), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{'total_' if version == 1 else ''}inactive_file {files}\n")


def test_the_narrowest_limit_around_the_process_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/system.slice/trainer\n")
    group(tmp_path / "system.slice", 2, str(100 * MIB), 70 * MIB, 20 * MIB)
    group(tmp_path / "system.slice" / "trainer", 2, "max", 70 * MIB, 0)
    assert free_memory(tmp_path, own) == 50 * MIB, "what files take can be dropped"
    group(tmp_path / "system.slice" / "trainer", 2, str(80 * MIB), 70 * MIB, 0)
    assert free_memory(tmp_path, own) == 10 * MIB
    group(tmp_path / "system.slice" / "trainer", 2, str(60 * MIB), 70 * MIB, 0)
    assert free_memory(tmp_path, own) == 0


def test_a_container_of_the_older_kind_sees_its_limit_at_the_top(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("7:blkio:/docker/abc\n5:cpu,memory:/docker/abc\n")
    group(tmp_path / "memory", 1, str(100 * MIB), 70 * MIB, 5 * MIB)
    assert free_memory(tmp_path, own) == 35 * MIB


def test_without_limits_it_is_what_the_machine_has(tmp_path: Path) -> None:
    within = tmp_path / "own"
    within.write_text("0::/trainer\n")
    group(tmp_path / "trainer", 2, "max", 70 * MIB, 0)
    for own in (tmp_path / "missing", within):
        looked = [
            psutil.virtual_memory().available,
            free_memory(tmp_path, own),
            psutil.virtual_memory().available,
        ]
        # Other tests take and give back memory meanwhile.
        assert min(looked[0], looked[2]) - 2048 * MIB < looked[1] < max(looked[0], looked[2]) + 2048 * MIB
