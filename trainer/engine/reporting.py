"""Reports training steps to TensorBoard and the other integrations of transformers.

They receive only what transformers' Trainer logs: numbers and the configuration, no text of any chat.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from storage.errors import BadSetting


def reporters(names: Sequence[str], folder: Path) -> list[Any]:
    """A callback for each name; TensorBoard's events go into `folder`/tensorboard.

    Raises BadSetting for a name that transformers does not know or whose package is missing.
    """
    found = []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise BadSetting(
                f"THUMBLOOP_REPORT_TO={name}: transformers reports to no such thing; it knows {known}.",
                field="report_to",
            )
        try:
            callback: Any = INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            package = "thumbloop[tensorboard]" if name == "tensorboard" else name
            raise BadSetting(
                f"THUMBLOOP_REPORT_TO={name}: its package is not installed; run `pip install '{package}'`, "
                f"or leave it out.",
                field="report_to",
            ) from error
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = str(folder / "tensorboard")
        found.append(callback)
    return found
