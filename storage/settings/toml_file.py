"""Settings written into thumbloop.toml; what else is in the file stays as it is, comments included.

Read it back with storage.settings. A setting in the environment goes before the file.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import tomlkit

from storage.errors import InvalidInput
from storage.files.atomic import write_atomically
from storage.settings import load_settings

FILE = Path("thumbloop.toml")


def write_settings(values: Mapping[str, str | float], file: Path = FILE) -> list[str]:
    """Put these settings into the file, which is made if absent; the lines that were written.

    Raises InvalidInput where the environment has one of them, because then the file's would not count, and
    BadSetting for a value that the setting cannot have.
    """
    for name in values:
        variable = f"THUMBLOOP_{name.upper()}"
        if variable in os.environ:
            raise InvalidInput(
                f"{variable}={os.environ[variable]} in the environment goes before {file}, where "
                f"{name} would be written; remove the variable.",
                field=name,
            )
    load_settings(**values)
    document = tomlkit.parse(file.read_text()) if file.exists() else tomlkit.document()
    document.update(values)
    write_atomically(file, tomlkit.dumps(document))
    return [f"{name} = {tomlkit.item(value).as_string()}" for name, value in values.items()]
