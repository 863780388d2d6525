"""A lock between processes: one has it at a time, and a killed process gives it up."""

import subprocess
import sys
from pathlib import Path

import pytest

from storage.files.locks import Timeout, lock

HOLD = """
import sys, time
from pathlib import Path
from storage.files.locks import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_gives_it_up(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Timeout):
        lock(file, wait=False)
    process.kill()
    process.wait()
    with lock(file, wait=False), pytest.raises(Timeout):
        lock(file, wait=False)
    with lock(file, wait=False):
        pass
