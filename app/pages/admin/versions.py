"""The pages /admin/versions: lineage and figures of each, deploy and canary, and replies compared."""

from base64 import b64encode
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlmodel import Session
from starlette.responses import Response

from app.api.v1.evaluations import evaluations
from app.pages.admin.figures import shown_figures
from app.pages.admin.frame import act, show, write
from app.pages.html import counted
from app.services import Services
from app.serving.reply import ReplyStream
from app.web.auth import Identity, ServicesHere
from storage.chats.chats import prompt_messages
from storage.db import audit
from storage.db.tables import Chat, now
from storage.errors import Conflict, InvalidInput
from storage.people.users import names_of
from storage.registry import model_versions
from storage.registry.evaluations import FAULTS
from storage.review.voted_replies import VotedReply, VoteFilter, conversation, get_voted_reply, list_votes
from trainer.gate.comparison import HARMS
from trainer.gate.measures import MEASURES

ADDRESS = "/admin/versions"
SHARES = (0.05, 0.1, 0.25, 0.5)  # of the new chats
DEPLOYMENTS_SHOWN = 20
SUGGESTED = 8  # newest thumbs down that the page offers to ask again
COMPARED_TOKENS = 256  # of each reply on the page that compares versions

SERVABLE = ("ready", "candidate")
Why = Annotated[str, Form(max_length=1000)]

router = APIRouter(include_in_schema=False)


@router.get(ADDRESS)
def show_versions(request: Request, services: ServicesHere) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        with services.database.read() as session:
            try:
                previous = model_versions.roll_back_target(session).name
            except Conflict:
                previous = ""
            rows = model_versions.deployments(session, limit=DEPLOYMENTS_SHOWN)
            people = names_of(session, [row.by for row in rows])
        figures, statistics = shown_figures(request, services)
        return {
            "versions": figures.versions,
            "names": {version.id: version.name for version in figures.versions},
            "previous": previous,
            "deployments": rows,
            "now": now(),
            "people": people,
            "statistics": statistics,
            "approval": {one.version: one for one in statistics.approval},
            "shares": SHARES,
            "measures": MEASURES,
            "harms": HARMS,
            **newest_evaluation(services),
        }

    return show(request, services, "versions.html", values)


def newest_evaluation(services: Services) -> dict[str, Any]:
    """What `evaluation.html` shows."""
    found, picture = next(evaluations(services), (None, None))
    data = picture.read_bytes() if picture is not None and picture.is_file() else b""
    return {"evaluation": found, "picture": b64encode(data).decode(), "missing": FAULTS}


@router.post(f"{ADDRESS}/{{name}}/deploy")
def deploy(request: Request, services: ServicesHere, name: str, why: Why = "") -> Response:
    def deed(identity: Identity) -> str:
        reason = why or "Deployed on the admin page."
        version = services.deployments.deploy(name, by=identity.user_id, why=reason)
        return f"{version.name} answers from now on."

    return act(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{name}}/reject")
def reject(request: Request, services: ServicesHere, name: str, why: Why = "") -> Response:
    def deed(session: Session, by: str) -> str:
        reason = why or "Rejected on the admin page."
        version = model_versions.reject_version(session, name, by=by, why=reason)
        return f"{version.name} is rejected and is never served."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/rollback")
def roll_back(request: Request, services: ServicesHere, why: Why = "") -> Response:
    def deed(identity: Identity) -> str:
        reason = why or "Rolled back on the admin page."
        version = services.deployments.roll_back(by=identity.user_id, why=reason)
        return f"Rolled back: {version.name} answers from now on."

    return act(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{name}}/canary")
def start_canary(
    request: Request,
    services: ServicesHere,
    name: str,
    share: Annotated[float, Form()] = 0.1,
    why: Why = "",
) -> Response:
    def deed(identity: Identity) -> str:
        reason = why or "Tried on the admin page."
        services.deployments.canary.start(name, share=share, by=identity.user_id, why=reason)
        return f"{name} answers {share:.0%} of the chats that begin from now on."

    return act(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/canary/end")
def end_canary(request: Request, services: ServicesHere, why: Why = "") -> Response:
    def deed(identity: Identity) -> str:
        reason = why or "Ended on the admin page."
        version, chats = services.deployments.canary.end(by=identity.user_id, why=reason)
        answered = f"the deployed version answers its {counted(chats, 'chat')}"
        return f"The canary of {version.name} is over; {answered}."

    return act(request, services, deed, ADDRESS)


@dataclass(frozen=True)
class Comparison:
    """What the page that compares two versions asks them. With a vote: the conversation that it rated."""

    prompt: str
    left: str
    right: str
    vote: VotedReply | None
    messages: list[dict[str, str]]


@router.get(f"{ADDRESS}/compare")
def show_comparison(
    request: Request, services: ServicesHere, left: str = "", right: str = "", vote: str = ""
) -> Response:
    def values(identity: Identity) -> dict[str, Any]:
        return _comparison(services, identity, left, right, "", vote) | {"replies": []}

    return show(request, services, "compare.html", values)


@router.post(f"{ADDRESS}/compare")
def compare(
    request: Request,
    services: ServicesHere,
    left: Annotated[str, Form()],
    right: Annotated[str, Form()],
    prompt: Annotated[str, Form()] = "",
    vote: Annotated[str, Form()] = "",
) -> Response:
    """Let two versions reply to the same messages, at the same time. Nothing is stored."""

    def values(identity: Identity) -> dict[str, Any]:
        given = _comparison(services, identity, left, right, prompt, vote)
        asked: Comparison = given["asked"]
        if not asked.messages:
            raise InvalidInput("Write a message for the versions to reply to.", field="prompt")
        default = services.chat_service.default_sampling()
        most = min(COMPARED_TOKENS, default.max_new_tokens)
        sampling = replace(default, max_new_tokens=most)
        with services.database.read() as session:
            ids = [model_versions.get_version(session, name).id for name in (asked.left, asked.right)]
        streams: list[ReplyStream] = []
        try:
            for version_id in ids:
                wanted = {"person": identity.user_id, "version_id": version_id}
                streams.append(services.deployments.stream(asked.messages, sampling, **wanted)[1])
                streams[-1].start()
            texts = ["".join(stream) for stream in streams]
        finally:
            for stream in streams:
                stream.cancel()
        return given | {"replies": list(zip((asked.left, asked.right), texts, strict=True))}

    return show(request, services, "compare.html", values)


def _comparison(
    services: Services, identity: Identity, left: str, right: str, prompt: str, vote_id: str
) -> dict[str, Any]:
    with services.database.write() if vote_id else services.database.read() as session:
        names = [one.name for one in model_versions.list_versions(session) if one.state in SERVABLE]
        deployed = model_versions.deployed_version(session).name
        vote, messages = None, []
        if vote_id:
            vote = get_voted_reply(session, vote_id)
            audit.record(session, identity.user_id, "read conversation", vote.chat_id)
            chat = session.get_one(Chat, vote.chat_id)
            messages = prompt_messages(chat, conversation(session, vote)[:-1])
    if prompt.strip():
        system = services.settings.system_prompt
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
    left = left or next((name for name in names if name != deployed), deployed)
    right = right or next((name for name in (deployed, *names) if name != left), deployed)
    with services.database.read() as session:
        disliked = list_votes(session, VoteFilter(label=False), limit=SUGGESTED).votes
    return {
        "asked": Comparison(prompt, left, right, vote, messages),
        "versions": names,
        "compared_tokens": COMPARED_TOKENS,
        "disliked": disliked,
        "fixed": services.settings.starter_prompts,
    }
