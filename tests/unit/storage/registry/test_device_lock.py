"""The locks by which serving and training take turns on one device."""

import subprocess
import sys
from pathlib import Path

from storage.registry.device_lock import DeviceLock


def test_a_training_waits_for_every_server_and_new_ones_wait_for_it(tmp_path: Path) -> None:
    one, other, training = DeviceLock(tmp_path), DeviceLock(tmp_path), DeviceLock(tmp_path)
    assert one.use()
    assert other.use()
    assert not training.claim()
    assert one.claimed()
    assert not DeviceLock(tmp_path).use(), "a server that comes while a training waits would hold it up"
    one.close()
    assert not training.claim()
    other.close()
    assert training.claim()
    assert not one.use()
    training.close()
    assert not one.claimed()
    assert one.use()


def test_two_trainings_have_it_one_after_the_other(tmp_path: Path) -> None:
    first, second = DeviceLock(tmp_path), DeviceLock(tmp_path)
    assert first.claim()
    assert not second.claim()
    first.close()
    assert second.claim()


def test_whoever_is_killed_gives_it_up(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from storage.registry.device_lock import DeviceLock; "
        "print(DeviceLock(Path(sys.argv[1])).claim(), flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    server = DeviceLock(tmp_path)
    assert not server.use()
    process.kill()
    process.wait()
    assert server.use()
