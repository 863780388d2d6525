"""What `thumbloop evaluate --questions` found of versions, newest first. For admins."""

from collections.abc import Iterator
from datetime import datetime
from itertools import dropwhile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field, ValidationError

from app.api.schemas import Limit, Page, page_of
from app.services import Services
from app.web.auth import Admin, ServicesHere
from storage.registry.evaluations import finished_evaluations

router = APIRouter(prefix="/evaluations", tags=["model versions"])


class EstimateOut(BaseModel):
    mean: float
    low: float = Field(description="Of the 95 % interval, by bootstrap over the questions.")
    high: float
    questions: int


class ScoresOut(BaseModel):
    """Mean ratings from 1 to 10; null where nothing was rated."""

    first: EstimateOut | None = Field(description="Of the first turn.")
    second: EstimateOut | None = Field(description="Of the second turn.")
    average: EstimateOut | None = Field(description="Of both turns, of questions with a rating of both.")


class AgainstBaselineOut(BaseModel):
    win: int = Field(description="Turns that this version won in both orders.")
    tie: int
    loss: int
    by_place: int = Field(description="Ties because the judge preferred a place to a reply.")
    no_result: int = Field(description="Turns without a comparison.")
    win_rate: EstimateOut | None = Field(description="A tie counts half.")
    difference: EstimateOut | None = Field(description="Of the averages: this one's minus the baseline's.")


class EvaluatedVersionOut(ScoresOut):
    version: str
    categories: dict[str, ScoresOut]
    faults: dict[str, int]
    against_baseline: AgainstBaselineOut | None = None


class EvaluationOut(BaseModel):
    id: str = Field(description="The name of its folder.")
    finished_at: datetime
    judge: str
    baseline: str | None
    questions: int
    versions: list[EvaluatedVersionOut]


@router.get("")
def list_evaluations(
    _: Admin,
    services: ServicesHere,
    limit: Limit = 20,
    cursor: Annotated[
        str | None, Query(description="`next` of the previous page; left out for the first one.")
    ] = None,
) -> Page[EvaluationOut]:
    """The two-turn evaluations in the data directory, newest first."""
    every = [one for one, _ in evaluations(services)]
    if cursor is not None:
        after = dropwhile(lambda one: one.id != cursor, every)
        every = list(after)[1:]
    return page_of(every, limit)


def evaluations(services: Services) -> Iterator[tuple[EvaluationOut, Path]]:
    """Each with the path of its picture, which may be missing. One that cannot be read is left out."""
    for one in finished_evaluations(services.settings.data_dir):
        try:
            found = EvaluationOut(**{**one.report, "id": one.name, "finished_at": one.finished_at})
        except ValidationError:
            continue
        yield found, one.picture
