"""Sweeps: what `thumbloop sweep` found, best point first. For admins."""

from datetime import datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from app.api.schemas import Cursor, Limit, Page, cut
from app.services import Services
from app.web.auth import Admin, ServicesHere
from trainer.sweep.folder import Sweep, all_sweeps, state_of

router = APIRouter(prefix="/sweeps", tags=["training runs"])


class PointOut(BaseModel):
    rank: int | None = Field(description="null for what cannot be ranked.")
    name: str
    loss: str
    beta: float
    learning_rate: float
    state: str = Field(
        description="measured, fell (liked replies became less likely), diverged or missing (not made yet)."
    )
    reason: str | None = Field(None, description="Why it diverged.")
    auc: float | None = Field(None, description="Of r against the label, on the held-out votes.")
    auc_standard_error: float | None = None
    margin: float | None = Field(
        None, description="Mean r of liked replies less that of disliked ones, in nats."
    )
    liked_change: float | None = Field(
        None, description="How much likelier liked replies became than by the base model, in nats a reply."
    )
    z0: float | None = Field(
        None, description="An estimate of the KL divergence from the base model, in nats."
    )
    seconds: float | None = Field(None, description="Of the training.")


class SweepOut(BaseModel):
    id: str
    created_at: datetime
    training: dict[str, int] = Field(description="Rows trained on, `up` and `down`, and `pairs` among them.")
    held_out: dict[str, int] = Field(description="Votes measured on, `up` and `down`.")
    origin: dict[str, Any] = Field(description="`votes_up_to` a vote event, or the name of a `file`.")
    points: list[PointOut]
    winner: str | None = Field(description="The name of the best point.")
    verdict: str


@router.get("")
def list_sweeps(_: Admin, services: ServicesHere, limit: Limit = 20, cursor: Cursor = None) -> Page[SweepOut]:
    """The sweeps of this installation, newest first, without those that went elsewhere by `--out`."""
    found = [
        folder
        for folder in all_sweeps(services.settings.data_dir)
        if cursor is None or folder.folder.name < cursor
    ]
    page, following = cut(found, limit, lambda folder: folder.folder.name)
    return Page(items=[sweep_out(folder.read()) for folder in page], next=following)


def newest_sweep(services: Services) -> tuple[SweepOut, Path] | None:
    """And where its plot is, if it has one."""
    found = all_sweeps(services.settings.data_dir)
    return (sweep_out(found[0].read()), found[0].plot) if found else None


def sweep_out(sweep: Sweep) -> SweepOut:
    points = []
    for number, result in enumerate(sweep.ranked, 1):
        values = result.to_dict()
        del values["point"]
        points.append(
            PointOut(
                **vars(result.point),
                **{name: value for name, value in values.items() if name in PointOut.model_fields},
                rank=number if result.is_sound else None,
                name=result.point.name,
                state=state_of(result),
                reason=result.diverged or None,
            )
        )
    points += [
        PointOut(**vars(point), rank=None, name=point.name, state="missing") for point in sweep.missing
    ]
    return SweepOut(
        id=sweep.name,
        **{name: sweep.plan[name] for name in ("created_at", "training", "held_out", "origin")},
        points=points,
        winner=sweep.winner.point.name if sweep.winner else None,
        verdict=sweep.verdict(),
    )
