"""Statistics: votes, weights, approval per version, readiness and schedule. For admins."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import AliasPath, BaseModel, Field

from app.api.schemas import ApprovalOut, VersionOut
from app.api.v1.model_versions import CanaryOut, all_versions, current_canary
from app.services import Services
from app.web.auth import Admin, ServicesHere
from storage.chats import stats, votes
from storage.chats.signals import count_signals
from storage.chats.stats import DayStats
from storage.chats.votes import VoteCounts
from storage.examples.filters import is_judged, is_of_source
from storage.examples.weights import class_weights, source_weight
from storage.registry.training_runs import active_run
from storage.settings.training import SignalKind
from trainer.dataset.plan import Readiness, check_readiness

router = APIRouter(tags=["feedback"])


class WeightsOut(BaseModel, from_attributes=True):
    desirable: float | None = Field(description="null until there are votes of both kinds.")
    undesirable: float | None


class ScheduleOut(BaseModel):
    description: str
    next_run: datetime | None


class Figures(BaseModel):
    votes: VoteCounts = Field(description="Those that training may use, with the judged ones.")
    judged: VoteCounts = Field(description="Of these, the ratings of judge models.")
    weights: WeightsOut = Field(
        description="The class weights of these votes, without those of THUMBLOOP_EXCLUDE_SOURCES and with "
        "imported ones counted by THUMBLOOP_IMPORT_WEIGHT. A run computes its own after its data policy, "
        "corrections, signals and hold-out; they are in its metrics."
    )
    versions: list[VersionOut]
    readiness: Readiness = Field(
        description="Whether there are enough of these votes, without those of THUMBLOOP_EXCLUDE_SOURCES. "
        "A run checks the votes that its data policy selects and its guard lets pass."
    )
    schedule: ScheduleOut
    active_run: str | None = Field(description="The id of the run that is requested or running.")


class JudgementOut(BaseModel, from_attributes=True):
    """A version that votes are still deciding on, or have decided on without anybody acting yet."""

    kind: str = Field(
        description="deployment: the deployed version against the one before. canary: the canary against the "
        "deployed version."
    )
    version: str
    compared_with: str
    up: int = Field(validation_alias=AliasPath("new", "up"))
    votes: int = Field(validation_alias=AliasPath("new", "votes"), description="Those that count.")
    up_compared: int = Field(validation_alias=AliasPath("old", "up"))
    votes_compared: int = Field(validation_alias=AliasPath("old", "votes"))
    people: int = Field(description="Who voted on the version.")
    p_worse: float = Field(
        validation_alias=AliasPath("comparison", "p_worse"),
        description="The probability that it is liked less, after these votes.",
    )
    evidence_worse: float = Field(
        validation_alias=AliasPath("comparison", "worse"),
        description="How many times more probable the votes are if it is liked less than if both are liked "
        "equally; 1 / THUMBLOOP_MONITOR_ERROR_RATE decides.",
    )
    evidence_better: float = Field(validation_alias=AliasPath("comparison", "better"))
    outcome: Literal["worse", "better", "undecided"]
    why: str = Field(description="The same in words.")


class Statistics(BaseModel):
    approval: list[ApprovalOut] = Field(description="Per version that has replied, newest first.")
    canary: CanaryOut | None = Field(description="The active canary, compared with the deployed version.")
    judgements: list[JudgementOut] = Field(
        description="What votes say of the deployed version and of the canary, while one is judged."
    )
    tags: dict[str, VoteCounts] = Field(description="Current votes per reason tag, most used first.")
    signals: dict[SignalKind, int] = Field(description="What people did with replies without voting.")
    days: list[DayStats] = Field(
        description="Votes cast or changed on each of the last 30 UTC days; each counts once a day."
    )


class Stats(Figures, Statistics):
    pass


@router.get("/stats")
def show_stats(_: Admin, services: ServicesHere) -> Stats:
    """Votes, the weights that follow from them, approval per version, tags, days, readiness, schedule."""
    return Stats(**dict(current_figures(services)), **dict(current_statistics(services)))


def current_statistics(services: Services) -> Statistics:
    """The statistics that need a scan of every reply and vote."""
    with services.database.read() as session:
        return Statistics(
            approval=[ApprovalOut.model_validate(version) for version in stats.version_stats(session)],
            canary=current_canary(services),
            judgements=[JudgementOut.model_validate(one) for one in services.monitor.judgements()],
            tags=stats.tag_counts(session),
            signals=count_signals(session),
            days=stats.daily_votes(session),
        )


def current_figures(services: Services) -> Figures:
    """The figures that are cheap enough to read every second."""
    settings = services.settings
    with services.database.read() as session:
        of_source = votes.count_by_source(session)
        trainable = {
            source: counts
            for source, counts in of_source.items()
            if not any(is_of_source(source, excluded) for excluded in settings.exclude_sources)
        }
        voters = votes.count_voters(session, sources=list(trainable))
        versions = all_versions(session)
        active = active_run(session)
    usable = votes.total(trainable.values())
    weights = WeightsOut(desirable=None, undesirable=None)
    if usable.up and usable.down:
        of_kind = {"import_weight": settings.import_weight, "judge_weight": settings.judge_weight}
        factors = {source: source_weight(source, **of_kind) for source in trainable}
        found = class_weights(
            sum(factors[source] * counts.up for source, counts in trainable.items()),
            sum(factors[source] * counts.down for source, counts in trainable.items()),
            settings.max_weight,
        )
        weights = WeightsOut.model_validate(found)
    readiness = check_readiness(
        ups=usable.up,
        downs=usable.down,
        voters=voters,
        trainable_rows=usable.up + usable.down,
        settings=settings,
    )
    return Figures(
        votes=votes.total(of_source.values()),
        judged=votes.total([counts for source, counts in of_source.items() if is_judged(source)]),
        weights=weights,
        versions=versions,
        readiness=readiness,
        schedule=ScheduleOut(
            description=services.schedule.describe(), next_run=services.schedule.next_run_time()
        ),
        active_run=active.id if active is not None else None,
    )
