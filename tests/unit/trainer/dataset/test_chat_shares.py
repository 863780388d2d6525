"""What falls to a reply of a thumb for its whole chat is its weight in training."""

from pathlib import Path

from transformers import AutoTokenizer

from storage.chats import chat_votes
from storage.db.database import Database
from storage.examples.example import Examples
from storage.examples.weights import class_weights
from storage.settings import Settings
from tests.support.rated_store import content
from tests.support.rows import add_person_with_reply, add_reply
from trainer.dataset.split import split_by_chat
from trainer.offline.train_file import OfflineTraining, plan_on_file


def test_a_share_is_the_weight_of_its_row(
    database: Database, tiny_model: Path, settings: Settings, tmp_path: Path
) -> None:
    with database.write() as session:
        person, chat, _ = add_person_with_reply(session)
        add_reply(session, chat, "And then?", "Nothing.")
        chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=True)
        _, other, _ = add_person_with_reply(session)
        add_reply(session, other, "What?", "That.", label=False)
        examples = list(Examples(session, 10**9).iterate())
    split = split_by_chat(AutoTokenizer.from_pretrained(tiny_model), examples, settings)
    rows = [*split.training, *split.held_out]
    assert sorted((row.label, row.weight) for row in rows) == [(False, 1.0), (True, 0.5), (True, 0.5)]

    (tmp_path / "rows.jsonl").write_bytes(content(database))  # so it is in a training on the export
    wanted = settings.model_copy(update={"batch_size": 3})
    plan = plan_on_file(OfflineTraining(tmp_path / "rows.jsonl", None, wanted, None))
    assert plan.weights == class_weights(1, 1, settings.max_weight)
    assert (plan.up, plan.down) == (2, 1)
