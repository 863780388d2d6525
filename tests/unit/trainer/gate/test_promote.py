"""What becomes of a version after its gate."""

from typing import Any

import pytest
from sqlmodel import Session

from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.registry import canaries, model_versions
from tests.support.rows import publish_candidate
from trainer.gate.decision import Verdict
from trainer.gate.promote import promote


def judged(session: Session, version: ModelVersion, outcome: Any, **more: Any) -> str:
    arguments = {
        "compared_with": model_versions.deployed_version(session),
        "metrics": {"loss": 0.4},
        "auto_deploy": True,
        "canary_share": 0.0,
    }
    return promote(session, version.id, Verdict(outcome, "Because.", {}), **(arguments | more))


@pytest.mark.parametrize(
    ("outcome", "auto_deploy", "state", "deployed", "sentence"),
    [
        ("pass", True, "ready", "v2", "v2 is deployed. Because."),
        ("pass", False, "ready", "v1", "v2 passed its gate and waits for an admin to deploy it. Because."),
        ("fail", True, "rejected", "v1", "v2 was made and rejected. Because."),
        ("not_enough_evidence", True, "candidate", "v1", "v2 was made and waits for an admin. Because."),
    ],
)
def test_a_verdict_decides(
    database: Database, outcome: Any, auto_deploy: bool, state: str, deployed: str, sentence: str
) -> None:
    with database.write() as session:
        version = publish_candidate(session)
        assert judged(session, version, outcome, auto_deploy=auto_deploy) == sentence
    with database.read() as session:
        version = model_versions.get_version(session, "v2")
        assert (version.state, version.reason, version.metrics) == (state, "Because.", {"loss": 0.4})
        assert model_versions.deployed_version(session).name == deployed


def test_an_admin_who_was_quicker_has_the_last_word(database: Database) -> None:
    with database.write() as session:
        version = publish_candidate(session)
        model_versions.deploy_version(session, "v2", by="admin", why="I like it.")
        assert "an admin has decided on it already" in judged(session, version, "fail")
        assert model_versions.get_version(session, "v2").state == "ready"
        assert model_versions.deployed_version(session).name == "v2"


def test_a_pass_against_a_version_that_was_replaced_meanwhile_waits(database: Database) -> None:
    with database.write() as session:
        publish_candidate(session)
        before = model_versions.deployed_version(session)
        model_versions.deploy_version(session, "v2", by="admin", why="I like it.")
        third = publish_candidate(session)
        sentence = judged(session, third, "pass", compared_with=before)
        assert "It passed against v1, but v2 was deployed meanwhile." in sentence
        assert model_versions.get_version(session, "v3").state == "candidate"
        assert model_versions.deployed_version(session).name == "v2"


def test_a_pass_waits_while_a_canary_is_under_way(database: Database) -> None:
    with database.write() as session:
        publish_candidate(session)
        canary = canaries.start_canary(session, "v2", share=0.1, by="admin", why="Let us see.")
        third = publish_candidate(session)
        sentence = judged(session, third, "pass")
        assert sentence == (
            "v3 passed its gate and waits for an admin, because v2 is being tried as a canary. Because."
        )
        assert model_versions.get_version(session, "v3").state == "ready"
        assert model_versions.deployed_version(session).name == "v1"
        assert canary.ended_at is None
