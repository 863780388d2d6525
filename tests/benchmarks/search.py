"""Full-text search in a large store: milliseconds in one person's chats and in the admin's list of votes.

Half of the chats are one person's. The words are drawn by Zipf's law from 20,000; some texts are Chinese.
"""

import itertools
import random
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage.chats.chats import add_user_message, create_chat, list_chats
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Chat, Message, User, Vote
from storage.registry import model_versions
from storage.review.voted_replies import VoteFilter, list_votes
from tests.benchmarks.report import empty_store, print_report, store_parser
from tests.benchmarks.voted_replies import measured

MESSAGES = 20  # of a chat
PEOPLE = 500
CHINESE = "我们今天去北京大学看书然后回家吃饭他说明年春天再来这里学习语言和历史"
RARE, NOWHERE, NOT_THEIRS = "xylophonist", "no such words", "marimbas"


def main() -> None:
    arguments = store_parser(__doc__)
    arguments.add_argument("--messages", type=int, default=200_000)
    given = arguments.parse_args()
    with empty_store(given.database_url) as (address, _), closing(Database(address)) as database:
        database.migrate()
        began = time.monotonic()
        owner, words = build(database, given.messages)
        figures: dict[str, Any] = {"build_s": round(time.monotonic() - began, 1)}
        if database.path is not None:
            figures["file_mib"] = round(Path(database.path).stat().st_size / 2**20)
        searches = {
            "a frequent word": words[0],
            "a word of one message in a hundred": words[600],
            "a rare word": RARE,
            "a text that is nowhere": NOWHERE,
            "a word that only others wrote": NOT_THEIRS,
            "two letters": "zx",
            "Chinese, two characters": "北京",
            "Chinese, four characters": "北京大学",
        }
        for name, text in searches.items():
            chats = measured(database, partial(list_chats, owner_id=owner, limit=41, search=text))
            votes = measured(database, partial(list_votes, filter=VoteFilter(search=text), limit=30))
            figures[name] = {"chats_ms": chats, "votes_ms": votes}
        figures["a message is stored"] = measured_writes(database, owner, words)
        print_report("search", {"messages": given.messages, "engine": database.dialect, **figures})


def draw_words(draw: random.Random) -> tuple[list[str], list[float]]:
    """Words, the most frequent ones first, and their cumulative weights by Zipf's law."""
    syllables = [first + vowel + last for first in "bdfgklmnprst" for vowel in "aeiou" for last in "lmnrs"]
    words = sorted({"".join(draw.choices(syllables, k=draw.choice((1, 2, 2, 3)))) for _ in range(20_000)})
    draw.shuffle(words)
    return words, list(itertools.accumulate(1 / (rank + 1) for rank in range(len(words))))


def build(database: Database, messages: int) -> tuple[str, list[str]]:
    """Returns the id of the person with half of the chats, and the words, the most frequent ones first."""
    draw = random.Random(0)
    words, weights = draw_words(draw)
    with database.write() as session:
        version = model_versions.ensure_base(session, "bench").id
    people = [new_id() for _ in range(PEOPLE)]
    with database.engine.begin() as connection:
        connection.execute(sa.insert(User), [{"id": person} for person in people])

    def text() -> str:
        if draw.random() < 0.1:
            return "".join(draw.choices(CHINESE, k=draw.randint(20, 120)))
        said = draw.choices(words, cum_weights=weights, k=draw.randint(20, 120))
        if draw.random() < 20 / messages:
            said.append(RARE)
        return " ".join(said)

    def rows(number: int) -> Iterator[tuple[type[Any], dict[str, Any]]]:
        owner = people[0] if number % 2 else draw.choice(people[1:])
        chat = Chat(owner_id=owner, title=text()[:40])
        yield Chat, chat.model_dump()
        parent = None
        for place in range(MESSAGES):
            more = f" {NOT_THEIRS}" if owner != people[0] and draw.random() < 0.02 else ""
            message = Message(
                chat_id=chat.id,
                parent_id=parent,
                role=("user", "assistant")[place % 2],
                content=text() + more,
            )
            message.model_version_id = version if place % 2 else None
            parent = message.id
            yield Message, message.model_dump()
            if place % 2:
                comment = (
                    " ".join(draw.choices(words, cum_weights=weights, k=8)) if draw.random() < 0.05 else None
                )
                vote = Vote(message_id=parent, user_id=owner, label=draw.random() < 0.7, comment=comment)
                yield Vote, vote.model_dump()

    for start in range(0, messages // MESSAGES, 500):
        made = [
            row for number in range(start, min(start + 500, messages // MESSAGES)) for row in rows(number)
        ]
        with database.engine.begin() as connection:
            for table in (Chat, Message, Vote):
                connection.execute(sa.insert(table), [row for kind, row in made if kind is table])
    with database.engine.begin() as connection:
        connection.execute(sa.text("ANALYZE"))
    return people[0], words


def measured_writes(database: Database, owner: str, words: list[str]) -> dict[str, float]:
    """Milliseconds of a transaction that adds a message of 100 words to a new chat."""

    def write(_reader: Any) -> None:
        with database.write() as session:
            add_user_message(session, create_chat(session, owner).id, " ".join(words[:100]))

    return measured(database, write)


if __name__ == "__main__":
    main()
