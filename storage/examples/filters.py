"""Filters that select examples, for exports, the examples API and training, and rated replies for admins.

`ExampleFilter` defines the filters of examples, and `read_filter` validates them. `resolve` replaces values
whose meaning changes over time (on_policy) or between installations (a user's hash).
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sqlmodel import Session

from storage.db.ids import is_id
from storage.db.tables import BROUGHT
from storage.errors import InvalidInput, NotFound
from storage.files.installation_key import pseudonym
from storage.people import users
from storage.registry import model_versions


def _check_order(filter: BaseModel, low: str, high: str) -> None:
    least, most = getattr(filter, low), getattr(filter, high)
    if least is not None and most is not None and least > most:
        raise ValueError(f"{low} is beyond {high}, so nothing can match")


class RatedFilter(BaseModel):
    """The filters of whatever lists rated replies. All must hold; one that is not given always does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: bool | None = Field(None, description="true (up) or false (down).")
    from_date: datetime | None = Field(
        None, description="Voted at this moment or later. A day means its start, in UTC."
    )
    to_date: datetime | None = Field(
        None,
        description="Voted at this moment or earlier. A day without a time includes the whole day, in UTC.",
    )
    model_version: str | None = Field(None, description="Replies by this version, for example v2.")
    tag: str | None = Field(None, description="Votes with this reason tag.")
    has_comment: bool | None = Field(None, description="Votes with (true) or without (false) a comment.")
    user: str | None = Field(None, description="Votes of this person: an id, or the user_hash of an export.")
    source: str | None = Field(
        None,
        description="Where it came from: web, api, openai, correction, judge (judge:NAME is one judge), or "
        "import, which is every import (import:pairs is those of one format).",
    )
    consent: Literal["given", "withheld", "any"] = Field(
        "given", description="Chats whose owner consents to training, does not, or both."
    )

    @field_validator("label", mode="before")
    @classmethod
    def _thumb(cls, value: object) -> object:
        return {"up": True, "down": False}.get(value, value) if isinstance(value, str) else value

    @field_validator("from_date", mode="before")
    @classmethod
    def _start(cls, value: object) -> datetime | None:
        return _moment(value, time.min)

    @field_validator("to_date", mode="before")
    @classmethod
    def _end(cls, value: object) -> datetime | None:
        return _moment(value, time.max)

    @field_validator("model_version")
    @classmethod
    def _version_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"v[1-9][0-9]{0,8}", value):
            raise ValueError("this is not a version's name, such as v2")
        return value

    @field_validator("user")
    @classmethod
    def _id_or_hash(cls, value: str | None) -> str | None:
        if value is not None and not is_id(value) and not re.fullmatch(r"[0-9a-f]{16}", value):
            raise ValueError("this is neither a user's id nor a user_hash of an export")
        return value

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        _check_order(self, "from_date", "to_date")
        return self

    @property
    def version_number(self) -> int | None:
        return int(self.model_version[1:]) if self.model_version is not None else None


class ExampleFilter(RatedFilter):
    """The filters of examples."""

    on_policy: bool = Field(False, description="Only replies by the version that is deployed now.")
    min_messages: int | None = Field(
        None, ge=1, description="At least this many messages, the system prompt and the reply included."
    )
    max_messages: int | None = Field(
        None, ge=1, description="At most this many messages, the system prompt and the reply included."
    )
    min_tokens: int | None = Field(
        None,
        ge=0,
        description="The reply has at least this many tokens as generated; a reply not generated here "
        "counts a token for every four characters.",
    )
    max_tokens: int | None = Field(
        None, ge=0, description="The reply has at most this many tokens, counted as for min_tokens."
    )
    quarantined: Literal["no", "only", "any"] = Field(
        "no", description="Votes that are not quarantined (no), that are (only), or both (any)."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        for name in ("messages", "tokens"):
            _check_order(self, f"min_{name}", f"max_{name}")
        if self.on_policy and self.model_version is not None:
            raise ValueError("on_policy and model_version cannot both be given")
        return self

    @property
    def counts_tokens(self) -> bool:
        return self.min_tokens is not None or self.max_tokens is not None

    def describe(self, salt: bytes) -> dict[str, Any]:
        """The filters that are set, for a manifest; a person appears only as a pseudonym."""
        shown = self.model_dump(mode="json", exclude_defaults=True) | {"consent": self.consent}
        if self.user is not None and is_id(self.user):
            shown["user"] = pseudonym(salt, self.user)
        return dict(sorted(shown.items()))


EVERYTHING = ExampleFilter()
IMPORT, JUDGE = BROUGHT
Filter = TypeVar("Filter", bound=RatedFilter)


def is_of_source(source: str, wanted: str) -> bool:
    """Whether `source` is the wanted one or a kind of it, as `import:pairs` is a kind of `import`."""
    return source == wanted or source.startswith(f"{wanted}:")


def is_brought(source: str) -> bool:
    """Whether a file or a judge brought it, so that its voter is nobody who chats here."""
    return any(is_of_source(source, kind) for kind in BROUGHT)


def is_judged(source: str) -> bool:
    """Whether a judge model rated it, and no person."""
    return is_of_source(source, JUDGE)


def read_filter(
    values: Mapping[str, object],
    kind: type[Filter] = ExampleFilter,  # type: ignore[assignment]
) -> Filter:
    """The filter from a query string or command-line options.

    Raises InvalidInput (`field` is the filter's name) for an unknown name or an invalid value.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InvalidInput(f"The filters contradict each other: {_reason(first)}.") from error
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            raise InvalidInput(
                f"There is no filter {name!r}; the filters are {known}.", code="unknown_filter", field=name
            ) from error
        raise InvalidInput(
            f"The filter {name} cannot be {first['input']!r}: {_reason(first)}.", field=name
        ) from error


def resolve(session: Session, filter: Filter, *, salt: bytes) -> Filter:
    """The filter with on_policy replaced by the deployed version, and a user's hash by their id.

    Raises NotFound if the version or the person does not exist.
    """
    found: dict[str, object] = {}
    if isinstance(filter, ExampleFilter) and filter.on_policy:
        found |= {"on_policy": False, "model_version": model_versions.deployed_version(session).name}
    elif filter.model_version is not None:
        model_versions.get_version(session, filter.model_version)
    if filter.user is not None:
        person = filter.user if is_id(filter.user) else users.find_by_hash(session, filter.user, salt=salt)
        if person is None:
            raise NotFound(f"There is no user with the hash {filter.user}.")
        found["user"] = users.get_user(session, person).id
    return filter.model_copy(update=found)


def _moment(value: object, of_day: time) -> datetime | None:
    try:
        if isinstance(value, str):
            value = _parse(value)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        if isinstance(value, date):
            return datetime.combine(value, of_day, tzinfo=UTC)
        if value is None:
            return None
    except (ValueError, OverflowError):
        pass
    raise ValueError("this is not a date; write 2026-01-31 or 2026-01-31T18:00:00+01:00")


def _parse(text: str) -> date | datetime:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def _reason(error: Any) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
