"""`thumbloop versions`, `deploy` and `rollback`: a running server follows within a second."""

from typing import TYPE_CHECKING

import typer

from app.commands.terminal import ACTOR, opened_database, print_table, say, shown_time

if TYPE_CHECKING:
    from storage.db.tables import ModelVersion
    from storage.registry.canaries import Traffic
    from storage.settings import Settings


def versions() -> None:
    """List the model versions, newest first."""
    from storage.registry.canaries import traffic
    from storage.registry.model_versions import list_versions

    with opened_database() as (_, database), database.read() as session:
        answering = traffic(session)
        rows = [
            (
                _answers(version.id, answering),
                version.name,
                version.state,
                shown_time(version.created_at),
                version.reason or "",
            )
            for version in list_versions(session)
        ]
    print_table(
        ("deployed", "version", "state", "made", "reason"),
        rows,
        empty="There is no model version yet; `thumbloop serve` adds the base model as v1.",
    )


def deploy(
    version: str = typer.Argument(help="A version, such as v2."),
    why: str = typer.Option("Asked for.", help="The reason, for the record."),
) -> None:
    """Let another version answer from now on."""
    from storage.registry.model_versions import deploy_version, get_version

    with opened_database() as (settings, database):
        with database.read() as session:
            verify(settings, get_version(session, version))
        with database.write() as session:
            deployed = deploy_version(session, version, by=ACTOR, why=why)
    say(f"{deployed.name} is deployed.")


def rollback(why: str = typer.Option("Asked for.", help="The reason, for the record.")) -> None:
    """Go back to the version that was deployed before."""
    from storage.registry.model_versions import roll_back, roll_back_target

    with opened_database() as (settings, database):
        with database.read() as session:
            verify(settings, roll_back_target(session))
        with database.write() as session:
            deployed = roll_back(session, by=ACTOR, why=why)
    say(f"{deployed.name} is deployed again.")


def _answers(version_id: str, answering: "Traffic") -> str:
    if version_id == answering.canary_id:
        return f"canary {answering.canary_share:.0%}"
    return "*" if version_id == answering.deployed_id else ""


def verify(settings: "Settings", version: "ModelVersion") -> None:
    """Raise ArtifactRefused unless the version's files are as published."""
    from storage.registry.artifacts import Artifacts

    if version.path is not None:
        Artifacts(settings.data_dir).verify(version.path, version.files)
