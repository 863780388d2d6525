"""A micro-batch as token ids: the input that the engines and the gate score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.dataset.tokenise import TokenisedExample

Ids = list[int]


@dataclass(frozen=True)
class Batch:
    """Prompts, each with its own reply and the mismatched reply of another row.

    A reply of None is not scored.
    """

    prompts: list[Ids]
    completions: list[Ids | None]
    mismatched: list[Ids | None]

    @classmethod
    def of(cls, rows: Sequence[TokenisedExample], *, max_length: int, mismatched: bool = True) -> "Batch":
        """Each row's mismatched reply is the reply of the row before it; the first row's is that of the last.

        Replies are cut so that prompt and reply together have at most `max_length` tokens.
        """

        def cut(row: TokenisedExample, reply_of: TokenisedExample) -> Ids:
            return reply_of.completion_ids[: max_length - len(row.prompt_ids)]

        return cls(
            [row.prompt_ids for row in rows],
            [cut(row, row) for row in rows],
            [cut(row, rows[place - 1]) if mismatched else None for place, row in enumerate(rows)],
        )

    def __iter__(self) -> Iterator[tuple[Ids, Ids | None, Ids | None]]:
        """(prompt, completion, mismatched reply) of each row."""
        return zip(self.prompts, self.completions, self.mismatched, strict=True)

    def part(self, numbers: Sequence[int]) -> "Batch":
        """The rows with these numbers, in that order."""
        return Batch(
            [self.prompts[number] for number in numbers],
            [self.completions[number] for number in numbers],
            [self.mismatched[number] for number in numbers],
        )
