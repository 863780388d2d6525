"""The page /admin/feedback: what people say, vote by vote. Plain HTML; its forms work without scripts.

`assets/plain.js` adds keys for reviewing and shows times as local ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from sqlmodel import Session
from starlette.responses import RedirectResponse, Response

from app.api.v1.voted_replies import current_themes
from app.pages.admin.frame import admin_of, admin_page
from app.pages.admin.frame import show as show_page
from app.pages.html import counted
from app.services import Services
from app.web.auth import Identity, ServicesHere
from storage.db import audit
from storage.db.tables import Chat
from storage.errors import Conflict, InvalidInput, NotFound, ThumbloopError
from storage.examples import filters
from storage.files.installation_key import load_secret
from storage.privacy.quarantine import set_excluded, set_quarantines
from storage.registry.model_versions import list_versions
from storage.review import second_ratings
from storage.review.voted_replies import (
    USES,
    VotedReply,
    VoteFilter,
    VotePage,
    conversation,
    get_voted_reply,
    list_votes,
)
from trainer.taste.review_queue import QUEUES, Queue, review_queue

ADDRESS = "/admin/feedback"
SHOWN = 30
LABELS = {"up": True, "down": False, "": None}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class View:
    """What an address shows: a page of the votes that match, and one of them with its conversation."""

    filters: Mapping[str, str]
    before: str = ""
    vote: str = ""
    queue: Queue | Literal[""] = ""  # a review queue instead of the list

    def link(self, **changes: str) -> str:
        """The address of this view with some of it changed."""
        parts = {**self.filters, "before": self.before, "vote": self.vote, "queue": self.queue} | changes
        query = urlencode({name: value for name, value in parts.items() if value})
        return f"{ADDRESS}?{query}" if query else ADDRESS


def view_of(query: Mapping[str, str]) -> View:
    given = {name: query[name] for name in VoteFilter.model_fields if query.get(name)}
    queue = query.get("queue", "")
    return View(given, query.get("before", ""), query.get("vote", ""), queue if queue in QUEUES else "")


@router.get(ADDRESS)
def show(request: Request, services: ServicesHere) -> Response:
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    query = request.query_params
    done = {name: query.get(name, "") for name in ("changed", "did")}
    return _page(request, identity, view_of(query), done=done)


@router.get(f"{ADDRESS}/themes")
def show_themes(request: Request, services: ServicesHere) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        return {"themes": current_themes(services)}

    return show_page(request, services, "themes.html", values)


@router.post(f"{ADDRESS}/exclusion")
def exclude(
    request: Request,
    services: ServicesHere,
    excluded: Annotated[bool, Form()],
    vote_id: Annotated[list[str], Form()] = [],  # noqa: B006, which FastAPI copies
    reason: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Exclude the chosen votes, or include them again."""

    def act(session: Session, by: str) -> dict[str, str]:
        set_excluded(session, _chosen(vote_id), excluded, by=by, reason=reason)
        return {"changed": ",".join(vote_id), "did": "exclude" if excluded else "include"}

    return _act(request, services, act)


@router.post(f"{ADDRESS}/reviews")
def review_chosen(
    request: Request,
    services: ServicesHere,
    vote_id: Annotated[list[str], Form()] = [],  # noqa: B006
    label: Annotated[str, Form()] = "",
    reason: Annotated[str, Form(max_length=1000)] = "",
    undo: Annotated[bool, Form()] = False,
) -> Response:
    """Rate the chosen votes that the admin has not rated yet, or take those ratings back."""

    def act(session: Session, by: str) -> dict[str, str]:
        if undo:
            second_ratings.rate_all(session, _chosen(vote_id), by=by)
            return {}
        rated = _label(label)
        if rated is None and not reason.strip():
            raise InvalidInput("Write the note first.", field="reason")
        changed = second_ratings.rate_all(session, _chosen(vote_id), by=by, label=rated, note=reason)
        if not changed:
            raise Conflict("You have rated all of these already; open one to change its rating.")
        return {"changed": ",".join(changed), "did": "rate"}

    return _act(request, services, act)


@router.post(f"{ADDRESS}/review")
def review(
    request: Request,
    services: ServicesHere,
    vote_id: Annotated[str, Form()],
    label: Annotated[str, Form()] = "",
    note: Annotated[str, Form(max_length=4000)] = "",
    correction: Annotated[str, Form(max_length=32_000)] = "",
) -> Response:
    """Store the admin's second rating; in a review queue, which the vote leaves, go on to the next one."""
    queue = view_of(request.query_params).queue

    def act(session: Session, by: str) -> dict[str, str]:
        rated = _label(label)
        following = _after(vote_id, review_queue(session, queue, by=by)) if queue else vote_id
        vote = get_voted_reply(session, vote_id)
        better = correction.replace("\r\n", "\n")  # as a form sends the ends of lines
        better = "" if better.strip() == vote.reply.strip() else better
        second_ratings.rate(session, vote_id, by=by, label=rated, note=note, correction=better)
        return {"vote": vote_id if rated is None else following}

    return _act(request, services, act)


@router.post(f"{ADDRESS}/quarantine")
def quarantine(
    request: Request,
    services: ServicesHere,
    quarantined: Annotated[bool, Form()],
    vote_id: Annotated[list[str], Form()] = [],  # noqa: B006
    user_id: Annotated[list[str], Form()] = [],  # noqa: B006
    reason: Annotated[str, Form(max_length=1000)] = "",
) -> Response:
    """Quarantine these people and those of the chosen votes, or release them."""

    def act(session: Session, by: str) -> dict[str, str]:
        chosen = {"user_ids": user_id, "vote_ids": vote_id if user_id else _chosen(vote_id)}
        why = reason or "On the feedback page."
        changed = set_quarantines(session, quarantined, **chosen, by=by, reason=why)
        return {"changed": ",".join(changed), "did": "quarantine" if quarantined else "release"}

    return _act(request, services, act)


def _chosen(vote_ids: list[str]) -> list[str]:
    if not vote_ids:
        raise InvalidInput("Choose a vote first.")
    return vote_ids


def _label(text: str) -> bool | None:
    if text not in LABELS:
        raise InvalidInput(f"A rating is up or down, not {text!r}.", field="label")
    return LABELS[text]


def _act(request: Request, services: Services, act: Callable[[Session, str], dict[str, str]]) -> Response:
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    view = view_of(request.query_params)
    try:
        with services.database.write() as session:
            done = act(session, identity.user_id)
    except ThumbloopError as error:
        return _page(request, identity, view, alert=error.message, status=error.status)
    return RedirectResponse(view.link(**done), status_code=303)


def _page(
    request: Request,
    identity: Identity,
    view: View,
    *,
    done: Mapping[str, str] | None = None,
    alert: str = "",
    status: int = 200,
) -> Response:
    services: Services = request.app.state.services
    values: dict[str, Any] = {"page": VotePage([], 0, None, complete=True), "opened": None}
    with services.database.read() as session:
        try:
            wanted = filters.read_filter(view.filters, VoteFilter)
            wanted = filters.resolve(session, wanted, salt=load_secret(services.settings.data_dir))
            if view.queue:
                queue = review_queue(session, view.queue, by=identity.user_id)
                values["page"] = VotePage(queue[:SHOWN], len(queue), None, complete=True)
            else:
                values["page"] = list_votes(session, wanted, limit=SHOWN, before=view.before or None)
        except (InvalidInput, NotFound) as error:
            alert, status = alert or error.message, error.status
        values["agreement"] = second_ratings.agreement(session)
        values["versions"] = [version.name for version in list_versions(session)]
    if view.vote:
        try:
            values["opened"] = _opened(services, identity, view.vote)
        except NotFound as error:
            alert, status = alert or error.message, error.status
    return admin_page(
        request,
        "feedback.html",
        status,
        view=view,
        query=view.link().removeprefix(ADDRESS),
        zip=zip,
        alert=alert,
        done=_done(done or {}),
        uses=USES,
        queues=QUEUES,
        admin=identity,
        **_beside(values["page"].votes, view.vote),
        **values,
    )


def _opened(services: Services, identity: Identity, vote_id: str) -> dict[str, Any]:
    with services.database.write() as session:
        vote = get_voted_reply(session, vote_id)
        audit.record(session, identity.user_id, "read conversation", vote.chat_id)
        chat = session.get_one(Chat, vote.chat_id)
        turns = [("system", chat.system_prompt)] if chat.system_prompt else []
        turns += [(message.role, message.content) for message in conversation(session, vote)]
        own = next((one for one in vote.reviews if one.by == identity.user_id), None)
        return {"vote": vote, "turns": turns, "own": own}


def _after(vote_id: str, queue: Sequence[VotedReply]) -> str:
    """The vote that comes after this one; without one, the first of the rest."""
    ids = [vote.id for vote in queue]
    at = ids.index(vote_id) + 1 if vote_id in ids else 0
    return next((one for one in (*ids[at : at + 1], *ids) if one != vote_id), "")


def _beside(votes: Iterable[VotedReply], opened: str) -> dict[str, str]:
    """The ids of the votes above and below the opened one in the list."""
    ids = [vote.id for vote in votes]
    if opened not in ids:
        return {"above": "", "below": ids[0] if ids else ""}
    at = ids.index(opened)
    return {"above": ids[at - 1] if at else "", "below": ids[at + 1] if ids[at + 1 :] else ""}


# What a form did: of what, in words, and the form that undoes it.
DEEDS: dict[str, tuple[str, str, str, Mapping[str, str]]] = {
    "exclude": ("vote", "excluded from training", "exclusion", {"excluded": "false"}),
    "include": ("vote", "included again", "exclusion", {"excluded": "true"}),
    "rate": ("vote", "rated", "reviews", {"undo": "true"}),
    "quarantine": ("person", "quarantined", "quarantine", {"quarantined": "false"}),
    "release": ("person", "released", "quarantine", {"quarantined": "true"}),
}


def _done(done: Mapping[str, str]) -> dict[str, Any] | None:
    """What the last action changed, with what undoes it."""
    if not done.get("changed") or done.get("did") not in DEEDS:
        return None
    noun, words, action, fields = DEEDS[done["did"]]
    ids = done["changed"].split(",")
    number = f"{len(ids)} people" if noun == "person" and len(ids) > 1 else counted(len(ids), noun)
    name = "user_id" if noun == "person" else "vote_id"
    return {"text": f"{number} {words}.", "action": action, "name": name, "ids": ids, "fields": fields}
