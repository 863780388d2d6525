"""Scores a candidate and the deployed version on the same held-out rows and returns the gate's verdict.

Adapters are loaded from their published folders, after verification: the gate judges what would be served.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.examples.weights import Weights
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import scoring
from trainer.gate.decision import Verdict, judge
from trainer.gate.held_out import HeldOut, reference_scores
from trainer.gate.measures import Evaluation
from trainer.model.base_model import BaseModelSource, load_model

log = logging.getLogger(__name__)


def compare(
    candidate: ModelVersion,
    deployed: ModelVersion,
    rows: Sequence[TokenisedExample],
    *,
    source: BaseModelSource,
    artifacts: Artifacts,
    weights: Weights,
    settings: Settings,
    references: ReferenceCache | None,
    report: Callable[[dict[str, object]], None],
) -> Verdict:
    """Load both versions, score them and judge. A candidate whose adapter is refused fails.

    The reference for both is the base model. `references` caches its log-probabilities; this reads and
    extends it. Scores come from the engine that trained the candidate. `report` receives the progress.
    """
    base, _ = load_model(source)
    try:
        model = _load_adapter(base, candidate, artifacts)
    except ArtifactRefused as error:
        return Verdict("fail", error.message, {})
    finite = all(
        bool(tensor.isfinite().all()) for name, tensor in model.named_parameters() if "lora_" in name
    )
    if not rows or not finite:
        return judge(None, None, finite=finite, settings=settings)
    old: ModelVersion | None = deployed
    try:
        if deployed.kind != "base" and deployed.id != candidate.id:
            _load_adapter(model, deployed, artifacts)
    except ArtifactRefused as error:
        log.warning("The new version cannot be compared with the deployed one. %s", error.message)
        old = None
    held_out = HeldOut(
        rows, loss_type=settings.loss_type, max_length=settings.max_length, batch_size=settings.batch_size
    )

    def note(name: str, done: int) -> None:
        report({"phase": f"evaluating {name}", "step": done, "steps": len(rows)})

    with scoring(candidate.metrics["training"]["engine"], model) as scorer:
        reference = held_out.score(reference_scores(scorer, references), partial(note, "the base model"))

        def evaluate(version: ModelVersion) -> Evaluation:
            if version.kind == "base":  # the base model is the reference
                scores = reference
            else:
                model.set_adapter(version.name)
                scores = held_out.score(scorer.policy, partial(note, version.name))
            return held_out.evaluate(scores, reference, weights=weights, beta=settings.beta)

        # An admin may have deployed the candidate already.
        versions = {version.id: version for version in (candidate, old) if version is not None}
        found = {version_id: evaluate(version) for version_id, version in versions.items()}
    return judge(found[candidate.id], found[old.id] if old else None, finite=finite, settings=settings)


def adapter_folder(version: ModelVersion, artifacts: Artifacts) -> Path | None:
    """The verified folder of a version's adapter; None for the base model and for a damaged adapter."""
    if version.path is None:
        return None
    try:
        return artifacts.verify(version.path, version.files)
    except ArtifactRefused as error:
        log.warning("The new version is compared with the base model. %s", error.message)
        return None


def _load_adapter(model: Any, version: ModelVersion, artifacts: Artifacts) -> PeftModel:
    """Add a version's adapter to the base model or to a PEFT model; raises ArtifactRefused."""
    assert version.path is not None
    folder = str(artifacts.verify(version.path, version.files))
    try:
        if not isinstance(model, PeftModel):
            return PeftModel.from_pretrained(model, folder, adapter_name=version.name)
        model.load_adapter(folder, adapter_name=version.name)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactRefused(
            f"The adapter of {version.name} does not load into {version.base_model}: {error}."
        ) from error
    return model
