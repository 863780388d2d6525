"""The default model, converted once for all test processes: that takes some 15 seconds each time."""

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
    folder: Path

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def said(self) -> list[list[str]]:
        """What each of two processes said that asked for it at once."""
        return list(json.loads((self.folder / "said.json").read_text()))

    def put_into(self, data_dir: Path) -> None:
        """Let that data directory have it too."""
        folder = data_dir / "models" / DEFAULT_MODEL
        shutil.copytree(self.data_dir / "models" / DEFAULT_MODEL, folder, copy_function=os.link)


def convert_default(folder: Path) -> None:
    """Have it converted by two processes at once."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        said = pool.map(resolve_default, [folder / "data"] * 2)
    (folder / "said.json").write_text(json.dumps(said))


def resolve_default(data_dir: Path) -> list[str]:
    """Ask for it; returns what was said."""
    lines: list[str] = []
    resolve(Settings(data_dir=data_dir), progress=lines.append)
    return lines
