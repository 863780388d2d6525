"""Applies the gate's verdict to a version: deploy, reject, mark as ready, or leave it to an admin."""

from typing import Any

from sqlmodel import Session

from storage.db.tables import ModelVersion
from storage.registry.canaries import start_canary
from storage.registry.model_versions import (
    deploy_version,
    deployed_version,
    get_version,
    open_canary,
    set_state,
)
from trainer.gate.decision import Verdict


def promote(
    session: Session,
    version_id: str,
    verdict: Verdict,
    *,
    compared_with: ModelVersion,
    metrics: dict[str, Any],
    auto_deploy: bool,
    canary_share: float,
) -> str:
    """Record the verdict and act on it in the session's transaction; returns a sentence for people.

    A `canary` gets `canary_share` of the new chats, if no other is under way.

    An admin's decision wins: a version that an admin has already deployed or rejected keeps its state. A
    version is not deployed automatically if the version it was compared with is no longer deployed, or while
    a canary is open, since a deployment would end it.
    """
    version = get_version(session, version_id)
    if version.state != "candidate":
        set_state(session, version.id, version.state, version.reason or "", metrics)
        return f"{version.name} was made, and an admin has decided on it already: it is {version.state}."
    if verdict.outcome == "fail":
        set_state(session, version.id, "rejected", verdict.reason, metrics)
        return f"{version.name} was made and rejected. {verdict.reason}"
    if verdict.outcome == "not_enough_evidence":
        set_state(session, version.id, "candidate", verdict.reason, metrics)
        return f"{version.name} was made and waits for an admin. {verdict.reason}"
    current = deployed_version(session)
    if current.id != compared_with.id:
        reason = f"It passed against {compared_with.name}, but {current.name} was deployed meanwhile."
        set_state(session, version.id, "candidate", reason, metrics)
        return f"{version.name} was made and waits for an admin. {reason}"
    if verdict.outcome == "canary" and (not canary_share or open_canary(session) is not None):
        set_state(session, version.id, "candidate", verdict.reason, metrics)
        return f"{version.name} was made and waits for an admin. {verdict.reason}"
    set_state(session, version.id, "ready", verdict.reason, metrics)
    if verdict.outcome == "canary":
        start_canary(session, version.id, share=canary_share, by="gate", why=verdict.reason)
        return f"{version.name} is tried on {canary_share:.0%} of the new chats. {verdict.reason}"
    if not auto_deploy:
        return f"{version.name} passed its gate and waits for an admin to deploy it. {verdict.reason}"
    canary = open_canary(session)
    if canary is not None:
        tried = get_version(session, canary.version_id).name
        return (
            f"{version.name} passed its gate and waits for an admin, because {tried} is being tried as a "
            f"canary. {verdict.reason}"
        )
    deploy_version(session, version.id, by="gate", why=verdict.reason)
    return f"{version.name} is deployed. {verdict.reason}"
