"""Statistics: votes, weights, approval per version, readiness and schedule. For admins."""

from datetime import date, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.schemas import ApprovalOut, VersionOut
from app.api.v1.canary import CanaryOut, current_canary
from app.api.v1.model_versions import all_versions
from app.services import Services
from app.web.auth import Admin, ServicesHere
from storage.chats import stats, votes
from storage.chats.signals import count_signals
from storage.examples.filters import is_of_source
from storage.examples.weights import class_weights, source_weight
from storage.registry.training_runs import active_run
from storage.settings import SignalKind
from trainer.dataset.readiness import check_readiness

router = APIRouter(tags=["feedback"])


class Votes(BaseModel):
    up: int
    down: int


class WeightsOut(BaseModel):
    desirable: float | None = Field(description="null until there are votes of both kinds.")
    undesirable: float | None


class ReadinessOut(BaseModel):
    ready: bool
    reason: str


class ScheduleOut(BaseModel):
    description: str
    next_run: datetime | None


class DayOut(BaseModel):
    day: date
    up: int
    down: int


class Figures(BaseModel):
    votes: Votes
    weights: WeightsOut = Field(
        description="What these votes weigh by their counts, those of THUMBLOOP_EXCLUDE_SOURCES left out and "
        "imported ones counted by THUMBLOOP_IMPORT_WEIGHT. A run computes its own, which are in its metrics, "
        "after its data policy, corrections, signals and hold-out."
    )
    versions: list[VersionOut]
    readiness: ReadinessOut = Field(
        description="Whether there are enough of these votes, those of THUMBLOOP_EXCLUDE_SOURCES left out. "
        "A run judges what its data policy chooses."
    )
    schedule: ScheduleOut
    active_run: str | None = Field(description="The id of the run that is requested or running.")


class Statistics(BaseModel):
    approval: list[ApprovalOut] = Field(description="Per version that has replied, newest first.")
    canary: CanaryOut | None = Field(description="The canary under way, beside the deployed version.")
    tags: dict[str, Votes] = Field(description="Current votes per reason tag, most used first.")
    signals: dict[SignalKind, int] = Field(description="What people did with replies; these are no votes.")
    days: list[DayOut] = Field(
        description="Votes cast or changed on each of the last 30 UTC days, each once a day."
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
        approval = stats.version_stats(session)
        tags = stats.tag_counts(session)
        days = stats.daily_votes(session)
        noted = count_signals(session)
    return Statistics(
        approval=[ApprovalOut.model_validate(version) for version in approval],
        canary=current_canary(services),
        tags={tag: Votes(up=up, down=down) for tag, (up, down) in tags.items()},
        signals=noted,
        days=[DayOut(day=day.day, up=day.up, down=day.down) for day in days],
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
    every = of_source.values()
    ups = sum(counts.up for counts in trainable.values())
    downs = sum(counts.down for counts in trainable.values())
    weights = WeightsOut(desirable=None, undesirable=None)
    if ups and downs:
        weighed = [
            (source_weight(source, settings.import_weight), counts) for source, counts in trainable.items()
        ]
        found = class_weights(
            sum(weight * counts.up for weight, counts in weighed),
            sum(weight * counts.down for weight, counts in weighed),
            settings.max_weight,
        )
        weights = WeightsOut(desirable=found.desirable, undesirable=found.undesirable)
    readiness = check_readiness(
        ups=ups,
        downs=downs,
        voters=voters,
        trainable_rows=ups + downs,
        settings=settings,
    )
    return Figures(
        votes=Votes(up=sum(counts.up for counts in every), down=sum(counts.down for counts in every)),
        weights=weights,
        versions=versions,
        readiness=ReadinessOut(ready=readiness.ready, reason=readiness.reason),
        schedule=ScheduleOut(
            description=services.schedule.describe(), next_run=services.schedule.next_run_time()
        ),
        active_run=active.id if active is not None else None,
    )
