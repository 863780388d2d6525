"""Lists in pages: {"items", "next"}, where `next` is the query parameter `cursor` of the page after.

A cursor is opaque to clients. Knows nothing of what is listed.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import AfterValidator, BaseModel, Field

from storage.db.ids import is_id

Item = TypeVar("Item")
NO_CURSOR = "give `next` of the page before as it was, or leave it out for the first page"


class Page(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    next: str | None = Field(description="The `cursor` of the next page; null on the last one.")


def _id_cursor(text: str) -> str:
    if not is_id(text):
        raise ValueError(NO_CURSOR)
    return text


CURSOR = Query(description="`next` of the page before; left out for the first one.")
Limit = Annotated[int, Query(ge=1, le=200, description="The most items to give.")]
Cursor = Annotated[Annotated[str, AfterValidator(_id_cursor)] | None, CURSOR]


def cut(
    found: Sequence[Item], limit: int, cursor: Callable[[Item], str]
) -> tuple[Sequence[Item], str | None]:
    """The page and its `next`, of what was found when one more than the limit was looked for."""
    page = found[:limit]
    return page, cursor(page[-1]) if len(found) > limit else None
