"""Commands on a full disk: one line that names what had no room and what to do, and nothing half done."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.programs import Program

# In a namespace of its own, where a process may mount a file system of a few megabytes. Prints what
# each command printed, its exit code and what is on the disk then, as JSON.
COMMANDS_ON_A_FULL_DISK = """
import json, os, sys
from pathlib import Path
import app.cli  # once for all commands: each runs in a fork

disk, rows = Path(sys.argv[1]), Path(sys.argv[2])
data, elsewhere = disk / "data", rows.parent
os.environ["THUMBLOOP_DATA_DIR"] = str(data)

def run(*words, stdin="", **settings):
    files = [open(elsewhere / name, "w+") for name in ("stdin", "stdout", "stderr")]
    files[0].write(stdin)
    files[0].seek(0)
    child = os.fork()
    if child == 0:
        os.environ.update(settings)
        for number, file in enumerate(files):
            os.dup2(file.fileno(), number)
        sys.argv = ["thumbloop", *map(str, words)]
        sys.exit(app.cli.main())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    printed = [Path(file.name).read_text() for file in files[1:]]
    return code, *printed, sorted(os.listdir(disk) + os.listdir(data))

def leave(free):
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        try:
            while ballast.write(bytes(65536)):
                pass
        except OSError:
            pass
        ballast.truncate(ballast.tell() - free)

found = {}
data.mkdir(mode=0o700)
leave(0)
found["first start"] = run("import", rows)
(disk / "ballast").unlink()
run("import", "-", stdin='{"prompt": "Hi", "completion": "Hello", "label": true}')
leave(100_000)
found["import"] = run("import", rows)
found["backup"] = run("backup", elsewhere / "backup.tar")
found["kept by import"] = run("export", elsewhere / "kept.jsonl", THUMBLOOP_DATA_DIR=str(data))
(data / "secret.key").unlink(missing_ok=True)
leave(0)
other = f"sqlite:///{elsewhere / 'other.db'}"
found["secret"] = run("export", elsewhere / "out.jsonl", THUMBLOOP_DATABASE_URL=other)
leave(3_000_000)
found["import --skip-bad"] = run("import", rows, "--skip-bad")
(disk / "ballast").unlink()
found["kept by import --skip-bad"] = run("export", "-")
print(json.dumps(found))
"""


def test_a_full_disk_is_said_in_one_line_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=6m none {disk} && exec "$@"'
    in_a_namespace = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*in_a_namespace, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk")
    rows = tmp_path / "rows.jsonl"
    text = "x" * 500
    with rows.open("w") as file:
        for number in range(6000):
            row = {"prompt": f"{number} {text}", "completion": text, "label": True}
            file.write(json.dumps(row) + "\n")
    done = subprocess.run(
        [*in_a_namespace, sys.executable, "-c", COMMANDS_ON_A_FULL_DISK, str(disk), str(rows)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    printed = {}
    for name, path in (
        ("first start", "data/thumbloop.db"),
        ("import", "data/thumbloop.db"),
        ("backup", "backup.tar"),
        ("secret", "data/secret.key"),
        ("import --skip-bad", "data/thumbloop.db"),
    ):
        code, out, error, _ = found[name]
        (printed[name],) = error.splitlines()
        assert (code, out) == (2, ""), name
        assert printed[name].startswith("thumbloop: ")
        assert path in printed[name]
        assert re.search("[Ff]ree some space", printed[name])
        assert "THUMBLOOP_DATABASE_URL" not in printed[name]
    assert not (tmp_path / "backup.tar").exists()
    assert not (tmp_path / "out.jsonl").exists()
    assert not [name for name in found["secret"][3] if "secret" in name]
    assert found["kept by import"][1].startswith("1 rows written to ")
    kept = re.search(r"(\d+) rows were imported before", printed["import --skip-bad"])
    assert kept is not None
    assert int(kept[1]) > 0
    assert len(found["kept by import --skip-bad"][1].splitlines()) == 1 + int(kept[1])


def test_standard_output_on_a_full_disk(thumbloop: CommandLine, tmp_path: Path) -> None:
    row = '{"prompt": "Hi", "completion": "Hello", "label": true}'
    thumbloop.output("import", "-", stdin=row)
    given, errors = tmp_path / "stdin", tmp_path / "stderr"
    given.write_text(row)
    full = {"output": Path("/dev/full"), "errors": errors, "stdin": given}
    for words in (("export", "-"), ("import", "-"), ("user", "list")):
        errors.write_text("")
        assert Program("app.cli", *words, environment=thumbloop.environment, **full).wait() == 2
        (line,) = errors.read_text().splitlines()
        assert line.startswith("thumbloop: Cannot write to standard output (No space left on device)")
