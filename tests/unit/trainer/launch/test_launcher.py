"""How many processes train, and which ways to start them are refused."""

from collections.abc import Iterator

import pytest
import torch
import typer.main

from app.cli import cli
from storage.errors import BadSetting, InvalidInput
from trainer.launch.environment import gpus
from trainer.launch.launcher import how_many

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gpus.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5")
    yield
    gpus.cache_clear()


@pytest.mark.parametrize(
    ("wanted", "device", "processes"),
    [(0, CPU, 1), (3, CPU, 3), (0, CUDA, 2), (1, CUDA, 1), (2, CUDA, 2), (3, CUDA, 2)],
)
def test_a_process_for_each_gpu_unless_a_number_is_set(
    wanted: int, device: torch.device, processes: int
) -> None:
    assert how_many(wanted, device) == processes


def test_two_processes_may_share_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert how_many(0, CPU) == 2


def test_what_a_launcher_started_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert how_many(0, CPU) == how_many(2, CUDA) == 4


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}, "use version 1 of FSDP"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP with a single process"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "use DeepSpeed"),
    ],
)
def test_ways_that_do_not_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], reason: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=reason):
        how_many(0, CPU)


@pytest.mark.parametrize("words", [["train"], ["sweep"]])
def test_what_is_one_process_is_not_done_twice(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidInput, match="start this one by itself"):
        typer.main.get_command(cli)(words, standalone_mode=False)
