"""The default model, converted once for all test processes by two programs that ask for it at once."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from storage.settings import Settings
from storage.settings.serving import DEFAULT_MODEL
from tests.support.programs import Program
from trainer.model.base_model import resolve


@dataclass(frozen=True)
class ConvertedDefault:
    folder: Path

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def outputs(self) -> list[str]:
        """What each of the two programs printed."""
        return [file.read_text() for file in self.folder.glob("*.output")]

    def put_into(self, data_dir: Path) -> None:
        """Let that data directory have it too."""
        folder = data_dir / "models" / DEFAULT_MODEL
        shutil.copytree(self.data_dir / "models" / DEFAULT_MODEL, folder, copy_function=os.link)


def convert_default(folder: Path) -> None:
    outputs = [folder / f"{number}.output" for number in range(2)]
    data_dir = str(folder / "data")
    programs = [Program(__name__, data_dir, environment=os.environ, output=output) for output in outputs]
    for program in programs:
        assert program.wait(600) == 0, program.printed()


def main() -> None:
    resolve(Settings(data_dir=Path(sys.argv[1])), progress=print)
