"""Evaluates a published version by what the votes so far say of its replies, without changing anything."""

from datetime import UTC, datetime

from storage.db.database import Database
from storage.errors import InvalidInput
from storage.registry.model_versions import deployed_version, get_version
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from trainer.dataset.snapshot import take_snapshot
from trainer.dataset.split import split_by_chat
from trainer.gate.decision import Verdict
from trainer.gate.replies import judge_sampled
from trainer.model.base_model import load_tokenizer, resolve
from trainer.taste.sampler import Report


def evaluate_version(
    database: Database, settings: Settings, name: str, *, against: str | None, report: Report
) -> Verdict:
    """Sample replies of a version and of another, by default the deployed one; judge them as the gate does.

    Raises NotFound, InvalidInput for the base model, and ArtifactRefused for damaged files.
    """
    artifacts = open_artifacts(settings, database)
    with database.read() as session:
        version = get_version(session, name)
        other = get_version(session, against) if against else deployed_version(session)
        snapshot = take_snapshot(session, settings, moment=datetime.now(UTC))
    if version.path is None:
        raise InvalidInput(f"{version.name} is the base model, with which every version is compared.")
    candidate = artifacts.verify(version.path, version.files)
    deployed = artifacts.verify(other.path, other.files) if other.path else None
    source = resolve(settings)
    settings = source.complete(settings)
    votes = split_by_chat(load_tokenizer(source), snapshot.examples, settings)
    verdict, _ = judge_sampled(
        source,
        candidate,
        deployed,
        strengths=[1.0],
        votes=[*votes.training, *votes.held_out],
        held_out=votes.held_out,
        settings=settings,
        report=report,
    )
    return verdict
