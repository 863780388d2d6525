"""Whose votes a version learned from, on both engines. What is lost of them: tests/unit/storage/privacy."""

from storage.db.database import Database
from storage.registry import model_versions
from storage.registry.lineage import learned_from
from tests.support.rows import add_person_with_reply, publish_candidate


def test_a_version_learned_from_the_votes_of_its_run_and_of_those_it_continues(database: Database) -> None:
    with database.write() as session:
        ada, _, first = add_person_with_reply(session, label=True)
        bob, _, second = add_person_with_reply(session, label=False)
        eve, _, signal = add_person_with_reply(session)
        base = model_versions.get_version(session, "v1")
        v2 = publish_candidate(session, [(first.id, ada.id), (signal.id, eve.id)])
        v3 = publish_candidate(session, [(second.id, bob.id)], continued_from=v2.id)
        v4 = publish_candidate(session, [(second.id, bob.id)])
        learned = {
            version.name: [learned_from(session, version, person.id) for person in (ada, bob, eve)]
            for version in (base, v2, v3, v4)
        }
    assert learned == {
        "v1": [False, False, False],
        "v2": [True, False, False],  # a signal is no vote
        "v3": [True, True, False],
        "v4": [False, True, False],
    }
