"""The candidate and the deployed version, measured on the same held-out examples with one base model.

Adapters are read from their published folders, verified: what is judged is what would be served.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.examples.example import Example
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from trainer.dataset.weights import Weights
from trainer.gate.evaluate import Evaluation, evaluate
from trainer.model.base_model import BaseModelSource, load_model

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Comparison:
    """What was measured; an evaluation is None where there was nothing to measure or no way to."""

    candidate: Evaluation | None
    deployed: Evaluation | None
    finite: bool


def compare(
    candidate: ModelVersion,
    deployed: ModelVersion,
    examples: Sequence[Example],
    *,
    source: BaseModelSource,
    artifacts: Artifacts,
    weights: Weights,
    settings: Settings,
    progress: Progress,
) -> Comparison:
    """Load both versions and score them; `progress` gets a version's name, rows done, and rows.

    Raises ArtifactRefused if the candidate cannot be loaded.
    """
    base, tokenizer = load_model(source)
    with _refusing(candidate):
        model = PeftModel.from_pretrained(base, _folder(candidate, artifacts), adapter_name=candidate.name)
    finite = all(
        bool(tensor.isfinite().all()) for name, tensor in model.named_parameters() if "lora_" in name
    )
    if not examples or not finite:
        return Comparison(None, None, finite)

    def score(version: ModelVersion, scored: Any) -> Evaluation:
        return evaluate(
            scored,
            tokenizer,
            examples,
            weights=weights,
            beta=settings.beta,
            loss_type=settings.loss_type,
            max_length=settings.max_length,
            batch_size=settings.batch_size,
            progress=lambda row, rows: progress(version.name, row, rows),
        )

    measured = score(candidate, model)
    if deployed.id == candidate.id:  # an admin was quicker than the gate
        return Comparison(measured, measured, finite)
    if deployed.kind == "base":
        with model.disable_adapter():
            return Comparison(measured, score(deployed, model.get_base_model()), finite)
    try:
        with _refusing(deployed):
            model.load_adapter(_folder(deployed, artifacts), adapter_name=deployed.name)
    except ArtifactRefused as error:
        log.warning("The new version cannot be compared with the deployed one. %s", error.message)
        return Comparison(measured, None, finite)
    model.set_adapter(deployed.name)
    return Comparison(measured, score(deployed, model), finite)


@contextmanager
def _refusing(version: ModelVersion) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactRefused(
            f"The adapter of {version.name} does not load into {version.base_model}: {error}."
        ) from error


def _folder(version: ModelVersion, artifacts: Artifacts) -> str:
    assert version.path is not None
    return str(artifacts.verify(version.path, version.files))
