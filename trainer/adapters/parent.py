"""Chooses where training starts: a fresh adapter, or the deployed version's adapter to continue.

An adapter that cannot be continued is refused before training starts; the error names its version and the
remedy. The deployed version is only read.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open

from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.registry.artifacts import WEIGHTS, Artifacts
from storage.settings import Settings
from trainer.model.base_model import BaseModelSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParentAdapter:
    """A version to continue from. `folder` is verified; `sha256` covers all its files."""

    version_id: str
    name: str
    folder: Path
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """For the lineage, which may leave this machine."""
        return {"version": self.name, "sha256": self.sha256}

    def load_into(self, model: Any) -> PeftModel:
        """Add this adapter to the base model, trainable. Raises ArtifactRefused if it does not fit."""
        try:
            adapted = PeftModel.from_pretrained(model, str(self.folder), is_trainable=True)
            with safe_open(self.folder / WEIGHTS, "pt") as file:
                stored = set(file.keys())
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first_line = str(error).partition("\n")[0]
            raise _refused(self.name, f"it does not load into this base model ({first_line})") from error
        wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
        if stored != wanted:
            raise _refused(
                self.name, f"it has {len(stored & wanted)} of the {len(wanted)} tensors of this base model"
            )
        return adapted


def find_parent(
    deployed: ModelVersion, source: BaseModelSource, artifacts: Artifacts, settings: Settings
) -> ParentAdapter | None:
    """The adapter that a run continues from, or None for a fresh one. Raises ArtifactRefused."""
    if settings.training_mode == "fresh":
        return None
    if deployed.kind == "base":
        log.info("%s is deployed, the base model: there is no adapter to continue from.", deployed.name)
        return None
    assert deployed.path is not None
    assert deployed.sha256 is not None
    try:
        folder = artifacts.verify(deployed.path, deployed.files)
    except ArtifactRefused as error:
        raise _refused(deployed.name, error.message.rstrip(".")) from error
    config = json.loads((folder / "adapter_config.json").read_text())
    base = config.get("base_model_name_or_path")
    if base != source.name:
        raise _refused(deployed.name, f"it is for the base model {base!r}, not {source.name!r}")
    if config.get("r") != settings.lora_rank:
        raise _refused(
            deployed.name, f"its rank is {config.get('r')}, not THUMBLOOP_LORA_RANK={settings.lora_rank}"
        )
    log.info("Continuing from the adapter of %s, which is also the reference.", deployed.name)
    return ParentAdapter(deployed.id, deployed.name, folder, deployed.sha256)


def _refused(version: str, why: str) -> ArtifactRefused:
    return ArtifactRefused(
        f"The adapter of {version} cannot be continued: {why}. Set THUMBLOOP_TRAINING_MODE=fresh to begin "
        f"at the base model, or deploy another version."
    )
