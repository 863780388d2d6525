"""The gate's verdict on a candidate: measure it and the deployed version alike, then judge."""

from collections.abc import Callable, Sequence

from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from trainer.dataset.tokenise import TokenisedExample
from trainer.dataset.weights import Weights
from trainer.gate.compare import compare
from trainer.gate.decision import Verdict, judge
from trainer.model.base_model import BaseModelSource


def reach_verdict(
    candidate: ModelVersion,
    deployed: ModelVersion,
    held_out: Sequence[TokenisedExample],
    *,
    source: BaseModelSource,
    artifacts: Artifacts,
    weights: Weights,
    settings: Settings,
    report: Callable[[dict[str, object]], None],
) -> Verdict:
    """A candidate whose adapter is refused fails; `report` gets the progress of measuring."""

    def note(name: str, row: int, rows: int) -> None:
        report({"phase": f"evaluating {name}", "step": row, "steps": rows})

    try:
        comparison = compare(
            candidate,
            deployed,
            [row.example for row in held_out],
            source=source,
            artifacts=artifacts,
            weights=weights,
            settings=settings,
            progress=note,
        )
    except ArtifactRefused as error:
        return Verdict("fail", error.message, {})
    return judge(comparison.candidate, comparison.deployed, finite=comparison.finite, settings=settings)
