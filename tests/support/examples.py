"""Examples as the store gives them to the trainer, without a store."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from storage.examples.example import Example
from trainer.dataset.tokenise import TokenisedExample
from trainer.taste.features import Reply


def example(
    question: str = "Why?", answer: str = "Because.", token_ids: list[int] | None = None, **more: Any
) -> Example:
    given: dict[str, Any] = {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        "label": True,
        "message_id": "m",
        "chat_id": "c",
        "user_id": "u",
        "model_version": "v1",
        "voted_at": datetime.now(UTC),
        "source": "web",
        "token_ids": token_ids,
    }
    return Example(**(given | more))


class Listed:
    """A snapshot's examples in a list: what the store does with queries, done plainly."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples
        self.read = 0

    def of(self, label: bool, since: datetime | None = None) -> Iterator[Example]:
        for example in reversed(self.examples):
            if example.label == label and (since is None or example.voted_at >= since):
                self.read += 1
                yield example

    def at(self, event_ids: Sequence[int]) -> Iterator[Example]:
        return (example for example in self.examples if example.event_id in set(event_ids))

    def count(self, label: bool, *, up_to: int | None = None, before: datetime | None = None) -> int:
        return sum(
            example.label == label
            and (up_to is None or example.event_id <= up_to)
            and (before is None or example.voted_at < before)
            for example in self.examples
        )


def rated_reply(reply: Reply, label: bool, chat: str) -> TokenisedExample:
    """A vote on a sampled reply, as a row."""
    asked = [{"role": "user", "content": reply.prompt}]
    rated = example(answer=reply.text, prompt=asked, label=label, message_id=chat, chat_id=chat)
    return TokenisedExample(rated, list(reply.prompt_ids), list(reply.completion_ids))
