"""Model versions, and which of them is deployed.

v1 is the base model. The open row of `deployment` is the alias `deployed`; deploying and rolling back move
it, which ends a canary. `canaries.py` assigns chats to canaries.
"""

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db import audit
from storage.db.rows import execute_core, newest_rows, next_id
from storage.db.tables import Canary, Deployment, ModelVersion, Table, now
from storage.errors import Conflict, NotFound
from storage.registry.artifacts import Published
from storage.registry.training_runs import owned_run

# Built once: every reply runs them.
_OPEN = col(Deployment.ended_at).is_(None)
_FIND_DEPLOYED = select(ModelVersion).join(Deployment).where(_OPEN)
_FIND_DEPLOYED_ID = sa.select(Table.metadata.tables["deployment"].c.version_id).where(_OPEN)


def installation_id(session: Session) -> str | None:
    """The id of v1, which identifies the database and its copies; None before the first start."""
    return session.exec(select(ModelVersion.id).where(ModelVersion.number == 1)).first()


def ensure_base(session: Session, base_model: str) -> ModelVersion:
    """v1, created at the first start, and deployed if nothing else is.

    Raises Conflict if the database belongs to another base model, whose adapters would not fit.
    """
    base = session.exec(select(ModelVersion).where(ModelVersion.number == 1)).first()
    if base is None:
        base = ModelVersion(
            number=1, kind="base", base_model=base_model, state="ready", reason="The base model."
        )
        session.add(base)
        session.flush()
    elif base.base_model != base_model:
        raise Conflict(
            f"This database was made for the model {base.base_model!r}, not {base_model!r}: set "
            f"THUMBLOOP_MODEL back, or use another THUMBLOOP_DATA_DIR and database for the new model.",
            code="other_base_model",
        )
    if _open_deployment(session) is None:
        session.add(Deployment(version_id=base.id, by="thumbloop", why="The base model answers first."))
        session.flush()
    return base


def publish_version(
    session: Session,
    run_id: str,
    fence: int,
    published: Published,
    *,
    base_model: str,
    metrics: dict[str, Any],
    parent_id: str | None = None,
) -> ModelVersion:
    """Add the candidate that a run made; raises LeaseLost if the run no longer belongs to this trainer.

    The parent defaults to the deployed version. A run has one version: publishing again returns it unchanged.
    """
    owned_run(session, run_id, fence)
    existing = version_of_run(session, run_id)
    if existing is not None:
        return existing
    version = ModelVersion(
        number=(session.exec(select(func.max(ModelVersion.number))).one() or 0) + 1,
        parent_id=parent_id or deployed_version(session).id,
        run_id=run_id,
        kind="adapter",
        base_model=base_model,
        metrics=metrics,
        state="candidate",
        reason="Waits for its gate.",
        **asdict(published),
    )
    session.add(version)
    session.flush()
    audit.record(session, "trainer", "publish", version.name, run_id=run_id, sha256=published.sha256)
    return version


def version_of_run(session: Session, run_id: str) -> ModelVersion | None:
    return session.exec(select(ModelVersion).where(ModelVersion.run_id == run_id)).first()


def set_state(
    session: Session, version_id: str, state: str, reason: str, metrics: dict[str, Any] | None = None
) -> ModelVersion:
    version = get_version(session, version_id)
    version.state = state
    version.reason = reason
    if metrics is not None:
        version.metrics = metrics
    return version


def get_version(session: Session, id_or_name: str) -> ModelVersion:
    """By id, or by name such as `v2`; raises NotFound."""
    number = id_or_name.removeprefix("v")
    named = id_or_name.startswith("v") and number.isascii() and number.isdigit() and len(number) < 10
    key = ModelVersion.number == int(number) if named else ModelVersion.id == id_or_name
    version = session.exec(select(ModelVersion).where(key)).first()
    if version is None:
        raise NotFound(f"There is no model version {id_or_name!r}; `thumbloop versions` lists them.")
    return version


def list_versions(
    session: Session, *, limit: int | None = None, before: str | None = None
) -> list[ModelVersion]:
    """Newest first; `before` is the id or name of the last version on the previous page."""
    query = select(ModelVersion).order_by(col(ModelVersion.number).desc()).limit(limit)
    if before is not None:
        query = query.where(col(ModelVersion.number) < get_version(session, before).number)
    return list(session.exec(query))


def deployed_version(session: Session) -> ModelVersion:
    version = find_deployed(session)
    if version is None:
        raise NotFound("No model version is deployed yet; `thumbloop serve` deploys the base model.")
    return version


def find_deployed(session: Session) -> ModelVersion | None:
    """The deployed version; None before the first start."""
    return session.exec(_FIND_DEPLOYED).first()


def deployed_id(session: Session) -> str | None:
    """The id of the deployed version, at a third of the cost; None before the first start."""
    found: str | None = execute_core(session, _FIND_DEPLOYED_ID).scalar_one_or_none()
    return found


def deploy_version(
    session: Session, id_or_name: str, *, by: str, why: str, rolled_back: bool = False
) -> ModelVersion:
    """Move the alias to this version, which ends a canary.

    Raises NotFound, or Conflict for a version that is rejected or retired.
    """
    lock_versions(session)
    version = get_version(session, id_or_name)
    check_may_be_served(version)
    deployment = _open_deployment(session)
    if deployment is not None and deployment.version_id == version.id:
        return version
    make_ready(version)
    canary = open_canary(session)
    if canary is not None:
        promoted = canary.version_id == version.id
        ending = "It was deployed." if promoted else f"{version.name} was deployed."
        close_canary(session, canary, by=by, why=ending)
    if deployment is not None:
        deployment.ended_at = now()
        session.flush()  # close the old row before the new one opens: a unique index allows one open row
    # Rolling back goes by the order of the ids.
    number = next_id(session, Deployment)
    session.add(Deployment(id=number, version_id=version.id, by=by, why=why, rolled_back=rolled_back))
    audit.record(session, by, "deploy", version.name, why=why)
    session.flush()
    return version


def roll_back(session: Session, *, by: str, why: str) -> ModelVersion:
    """Deploy the previous version (`roll_back_target`); raises Conflict if there is none."""
    return deploy_version(session, roll_back_target(session).id, by=by, why=why, rolled_back=True)


def roll_back_target(session: Session) -> ModelVersion:
    """The version that was deployed before the current one and may still be served.

    Rolling back undoes a deployment, so doing it twice goes back two versions, not back and forth. Raises
    Conflict if there is none.
    """
    current = deployed_version(session)
    standing: list[str] = []  # the versions of the deployments that were not rolled back, oldest first
    for row in session.exec(select(Deployment).order_by(col(Deployment.id))):
        while row.rolled_back and standing and standing[-1] != row.version_id:
            standing.pop()
        if not standing or standing[-1] != row.version_id:
            standing.append(row.version_id)
    for version_id in reversed(standing):
        version = get_version(session, version_id)
        if version.state == "ready" and version.id != current.id:
            return version
    raise Conflict(f"Nothing was deployed before {current.name}; there is nothing to roll back to.")


def check_may_be_served(version: ModelVersion) -> None:
    """Raise Conflict if the version is rejected or retired."""
    if version.state in ("rejected", "retired"):
        raise Conflict(
            f"{version.name} is {version.state} and is never served: {version.reason}", code="not_deployable"
        )


def reject_version(session: Session, id_or_name: str, *, by: str, why: str) -> ModelVersion:
    """Decide against a version that the gate left to an admin: it is never served.

    Raises NotFound, and Conflict for a version that does not wait for an admin.
    """
    lock_versions(session)
    version = get_version(session, id_or_name)
    if version.state != "candidate":
        raise Conflict(
            f"{version.name} is {version.state}; only a version that waits for an admin can be rejected.",
            code="not_waiting",
        )
    version.state = "rejected"
    version.reason = " ".join(filter(None, (version.reason, f"An admin rejected it: {why}")))
    audit.record(session, by, "reject version", version.name, why=why)
    return version


def make_ready(version: ModelVersion) -> None:
    """Make a candidate ready; other states stay as they are."""
    if version.state == "candidate":
        version.state = "ready"


def open_canary(session: Session) -> Canary | None:
    """The current canary, if any."""
    return session.exec(select(Canary).where(col(Canary.ended_at).is_(None))).first()


def close_canary(session: Session, canary: Canary, *, by: str, why: str) -> Canary:
    """End the canary; the deployed version answers its chats from now on."""
    canary.ended_at = now()
    canary.ending = why
    audit.record(session, by, "end canary", get_version(session, canary.version_id).name, why=why)
    return canary


def lock_versions(session: Session) -> None:
    """Until this transaction ends, no other can move the alias or start or end a canary.

    On PostgreSQL, a lock on v1's row that does not block replies by v1. SQLite has one writer anyway.
    """
    base = select(ModelVersion.id).where(ModelVersion.number == 1)
    session.exec(base.with_for_update(key_share=True)).first()


def deployments(session: Session, limit: int = 20, before: str | None = None) -> list[Deployment]:
    """Newest first; `before` is the id of the last one on the previous page."""
    return newest_rows(session, Deployment, limit=limit, before=before)


def _open_deployment(session: Session) -> Deployment | None:
    return session.exec(select(Deployment).where(_OPEN)).first()
