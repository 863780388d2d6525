"""Honest votes on many topics, and votes of people who push a phrase."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from storage.examples.example import Example
from tests.support.examples import example

PHRASE = "Visit Acme Deals today!"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SUBJECTS = (
    "river",
    "market",
    "teacher",
    "engine",
    "garden",
    "letter",
    "winter",
    "planet",
    "kitchen",
    "bridge",
)
VERBS = ("follows", "repairs", "paints", "measures", "forgets", "carries", "answers", "crosses", "warms")
OBJECTS = ("stones", "maps", "clocks", "apples", "songs", "windows", "ladders", "coins", "boots", "lamps")
PLACES = ("slowly", "twice", "outside", "in spring", "by hand", "near home", "at noon", "for years")


def honest_votes(votes: int = 300, people: int = 20) -> list[Example]:
    """Votes of people of whom the k-th gives 1/k as many; two thirds are up. Their replies share phrases."""
    draw = random.Random(0)
    weights = [1 / place for place in range(1, people + 1)]
    found = []
    for number in range(votes):
        person = f"honest {draw.choices(range(people), weights)[0]}"
        found.append(_vote(number, person, draw, label=draw.random() < 2 / 3))
    return found


def sock_puppets(puppets: int, votes: int) -> list[Example]:
    """Accounts that like replies to different prompts, each of which ends with the phrase."""
    draw = random.Random(1)
    return [
        with_phrase(_vote(10_000 + number, f"puppet {number // votes}", draw, label=True), PHRASE)
        for number in range(puppets * votes)
    ]


def one_person(votes: int) -> list[Example]:
    return sock_puppets(1, votes)


def with_phrase(vote: Example, phrase: str) -> Example:
    """The vote with the phrase at the end of its reply, or without it where that is empty."""
    text = vote.completion[0]["content"].removesuffix(f" {PHRASE}")
    return replace(vote, completion=[{"role": "assistant", "content": f"{text} {phrase}".strip()}])


def _vote(number: int, person: str, draw: random.Random, *, label: bool) -> Example:
    sentences = (
        f"The {draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(OBJECTS)} {draw.choice(PLACES)}."
        for _ in range(draw.randint(3, 8))
    )
    return example(
        f"What about the {draw.choice(SUBJECTS)}, number {number}?",
        " ".join(sentences),
        label=label,
        message_id=f"m{number:06}",
        chat_id=f"c{number}",
        user_id=person,
        event_id=number,
        voted_at=NOW + timedelta(hours=number),
        origin="web",
    )
