"""The results of `thumbloop sweep`, best point first. For admins."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field, create_model

from app.api.schemas import Cursor, Limit, Page, page_of
from app.services import Services
from app.web.auth import Admin, ServicesHere
from trainer.sweep.grid import MEASURES, Point, Ranking, Result

if TYPE_CHECKING:
    from trainer.sweep.outcome import Sweep

router = APIRouter(prefix="/sweeps", tags=["training runs"])


class _Point(BaseModel):
    rank: int | None = Field(description="null if the point cannot be ranked.")
    name: str
    loss: str
    beta: float
    learning_rate: float
    state: str = Field(
        description="measured, fell (liked replies became less likely), diverged or missing (not yet trained)"
    )
    reason: str | None = Field(None, description="Why it diverged.")
    seconds: float | None = Field(None, description="Of the training.")


if TYPE_CHECKING:
    PointOut = _Point
else:
    _figures = {m.name: (float | None, Field(None, description=m.about)) for m in MEASURES if m.about}
    PointOut = create_model("PointOut", __base__=_Point, **_figures)


class SweepOut(BaseModel):
    id: str
    created_at: datetime
    training: dict[str, int] = Field(description="Rows trained on, `up` and `down`, and `pairs` among them.")
    held_out: dict[str, int] = Field(description="Votes measured on, `up` and `down`.")
    origin: dict[str, Any] = Field(description="`votes_up_to` a vote event, or the name of a `file`.")
    points: list[PointOut]
    judge: str | None = Field(
        description="The judge model that rated replies, by the name that it was given."
    )
    base: dict[str, float | None] | None = Field(description="Its rating of the base model's replies.")
    ranked_by: Ranking
    winner: str | None = Field(description="The name of the best point.")
    verdict: str


@router.get("")
def list_sweeps(_: Admin, services: ServicesHere, limit: Limit = 20, cursor: Cursor = None) -> Page[SweepOut]:
    """The sweeps in the data directory, newest first."""
    from trainer.sweep.folder import all_sweeps  # Optuna takes a while to load

    found = [
        folder
        for folder in all_sweeps(services.settings.data_dir)
        if cursor is None or folder.folder.name < cursor
    ]
    return page_of([sweep_out(folder.read()) for folder in found[: limit + 1]], limit)


def newest_sweep(services: Services) -> tuple[SweepOut, Path] | None:
    """The newest sweep and the path of its plot, which may be missing; None without a sweep."""
    from trainer.sweep.folder import all_sweeps

    found = all_sweeps(services.settings.data_dir)
    return (sweep_out(found[0].read()), found[0].plot) if found else None


def sweep_out(sweep: "Sweep") -> SweepOut:
    ranked = [
        _point(r.point, r, number if r.is_sound(sweep.by) else None)
        for number, r in enumerate(sweep.ranked, 1)
    ]
    return SweepOut(
        id=sweep.name,
        **{name: sweep.plan[name] for name in ("created_at", "training", "held_out", "origin")},
        points=[*ranked, *(_point(point) for point in sweep.missing)],
        judge=sweep.judge,
        base=dict(sweep.base) if sweep.base is not None else None,
        ranked_by=sweep.by,
        winner=sweep.winner.point.name if sweep.winner else None,
        verdict=sweep.verdict(),
    )


def _point(point: Point, result: Result | None = None, number: int | None = None) -> PointOut:
    if result is None:
        return PointOut(**vars(point), rank=None, name=point.name, state="missing")
    return PointOut(
        **vars(point),
        **{measure.name: result[measure.name] for measure in MEASURES if measure.about},
        rank=number,
        name=point.name,
        state=result.state,
        reason=result.diverged or None,
        seconds=result.seconds,
    )
