"""Writes settings into thumbloop.toml; the rest of the file, comments included, stays unchanged.

storage.settings reads the file. The environment takes precedence over it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import tomlkit

from storage.errors import InvalidInput
from storage.files.atomic import write_atomically
from storage.settings import load_settings
from storage.settings.validators import variable

FILE = Path("thumbloop.toml")


def write_settings(values: Mapping[str, str | float], file: Path = FILE) -> list[str]:
    """Write these settings into the file, creating it if needed; returns the lines written.

    Raises InvalidInput if the environment sets one of them, because it would override the file, and
    BadSetting for an invalid value.
    """
    for name in values:
        if variable(name) in os.environ:
            raise InvalidInput(
                f"{variable(name)}={os.environ[variable(name)]} in the environment goes before {file}, where "
                f"{name} would be written; remove the variable.",
                field=name,
            )
    load_settings(**values)
    document = tomlkit.parse(file.read_text()) if file.exists() else tomlkit.document()
    document.update(values)
    write_atomically(file, tomlkit.dumps(document), private=not file.exists())  # it may hold passwords
    return [f"{name} = {tomlkit.item(value).as_string()}" for name, value in values.items()]
