"""The default model, converted once for all test processes: that takes some 15 seconds each time."""

import fcntl
import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from storage.settings import DEFAULT_MODEL, Settings
from trainer.model.base_model import resolve


@dataclass(frozen=True)
class ConvertedDefault:
    data_dir: Path
    said: list[list[str]]  # what each of two processes said that asked for it at once

    def put_into(self, data_dir: Path) -> None:
        """Let that data directory have it too."""
        folder = data_dir / "models" / DEFAULT_MODEL
        shutil.copytree(self.data_dir / "models" / DEFAULT_MODEL, folder, copy_function=os.link)


def convert_default(folder: Path) -> ConvertedDefault:
    """Have it converted in that folder by two processes at once, unless that was done."""
    folder.mkdir(exist_ok=True)
    data_dir, said = folder / "data", folder / "said.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            with multiprocessing.get_context("spawn").Pool(2) as pool:
                said.write_text(json.dumps(pool.map(resolve_default, [data_dir, data_dir])))
    return ConvertedDefault(data_dir, json.loads(said.read_text()))


def resolve_default(data_dir: Path) -> list[str]:
    """Ask for it; returns what was said."""
    lines: list[str] = []
    resolve(Settings(data_dir=data_dir), progress=lines.append)
    return lines
