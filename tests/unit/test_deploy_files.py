"""The examples of docs/deploy/, by the tools that read them. nginx runs in test_several_servers.py."""

import subprocess
from pathlib import Path

import kubernetes_validate
import yaml

from storage.settings import Settings
from storage.settings.validators import variable
from tests.support import REPOSITORY
from tests.support.proxy import installed

EXAMPLES = REPOSITORY / "docs/deploy"
SETTINGS = {variable(name) for name in Settings.model_fields}


def test_caddy_takes_its_file(tmp_path: Path) -> None:
    command = [installed("caddy", "caddy"), "adapt", "--adapter", "caddyfile", "--validate"]
    command += ["--config", EXAMPLES / "Caddyfile"]
    environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "not formatted" not in found.stderr


def test_kubernetes_takes_its_objects_and_thumbloop_its_settings() -> None:
    objects = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text()))
    for one in objects:
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)
    kinds = {one["kind"]: one for one in objects}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    names = {each["name"] for each in container["env"]} | set(kinds["Secret"]["stringData"])
    assert {name for name in names if name.startswith("THUMBLOOP_")} <= SETTINGS
    grace = kinds["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > Settings.model_fields["drain_seconds"].default * 2
