"""The gate's verdict on a candidate: measure it and the deployed version alike, then judge."""

from collections.abc import Callable, Sequence

from storage.artifacts import Artifacts
from storage.errors import ArtifactRefused
from storage.settings import Settings
from storage.tables import ModelVersion
from trainer.base_model import BaseModelSource
from trainer.comparison import compare
from trainer.gate import Verdict, judge
from trainer.tokenise import Row
from trainer.weights import Weights


def reach_verdict(
    candidate: ModelVersion,
    deployed: ModelVersion,
    held_out: Sequence[Row],
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
