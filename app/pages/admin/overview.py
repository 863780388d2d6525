"""The page /admin/: is it going well? Approval, votes, what runs now and next, and what needs an admin."""

import shutil
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.api.v1.stats import Figures, Statistics
from app.pages.admin.charts import HEIGHT, WIDTH, approval_points
from app.pages.admin.figures import shown_figures
from app.pages.admin.frame import show
from app.pages.admin.training import newest_run
from app.pages.html import counted
from app.services import Services
from app.web.auth import Identity, ServicesHere
from storage.chats.stats import failed_replies
from storage.db.tables import now
from storage.examples.weights import KEPT
from storage.registry.training_runs import list_runs

LEAST_DISK = 2**30  # bytes: about what the files of two versions and a snapshot take
NEXT_RUNS = 5
# More failed replies than this in a day, and than this share of all, are told.
MOST_FAILED, MOST_FAILED_SHARE = 3, 0.05

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Alert:
    """Something that an admin should look at, and where."""

    text: str
    link: str
    bad: bool = True


@router.get("/admin/")
def overview(request: Request, services: ServicesHere) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        newest = newest_run(services)  # first: a page that knows of a run's end does not follow it
        figures, statistics = shown_figures(request, services)
        answering = next((one for one in figures.versions if one.deployed), None)
        return {
            "figures": figures,
            "statistics": statistics,
            "kept": KEPT,
            "answering": answering,
            "approval": next(
                (one for one in statistics.approval if answering and one.version == answering.name), None
            ),
            "points": approval_points(statistics.approval),
            "plot": (WIDTH, HEIGHT),
            "alerts": alerts(services, figures, statistics),
            **newest,
            "next_times": services.schedule.next_times(NEXT_RUNS),
        }

    return show(request, services, "overview.html", values)


def alerts(services: Services, figures: Figures, statistics: Statistics) -> list[Alert]:
    found = []
    if (trouble := services.deployments.trouble()) is not None:
        found.append(Alert(trouble, "/admin/training"))
    with services.database.read() as session:
        runs = list_runs(session, limit=1)
        failed, replies = failed_replies(session, now() - timedelta(days=1))
    if failed >= MOST_FAILED and failed > MOST_FAILED_SHARE * replies:
        text = f"{failed} of {replies} replies of the last 24 hours failed; the server's log says why."
        found.append(Alert(text, "/admin/versions"))
    if runs and runs[0].state == "failed":
        found.append(Alert(f"The newest run failed. {runs[0].reason}", f"/admin/training/{runs[0].id}"))
    for judgement in statistics.judgements:
        if judgement.outcome == "worse":
            found.append(Alert(judgement.why, "/admin/versions"))
    newest = figures.versions[0] if figures.versions else None
    if newest is not None and newest.state == "candidate" and not newest.canary:
        text = f"{newest.name} waits for your decision. {newest.reason or ''}"
        found.append(Alert(text, "/admin/versions", bad=False))
    for version in figures.versions:
        if version.deployed and version.erased_votes:
            lost = counted(version.erased_votes, "vote")
            text = f"{version.name}, which replies now, was trained on {lost} that were erased or withdrawn."
            found.append(Alert(text, "/admin/training"))
    free = shutil.disk_usage(services.settings.data_dir).free
    if free < LEAST_DISK:
        text = f"The disk of the data directory has {free / 2**20:.0f} MB left: trainings will fail."
        found.append(Alert(text, "/admin/settings"))
    return found
