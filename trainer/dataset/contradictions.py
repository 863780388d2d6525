"""Ratings of both kinds of one text: neither can be trusted, and together they teach nothing. Pure."""

from collections import Counter
from collections.abc import Sequence

from storage.examples.duplicates import digest
from trainer.dataset.tokenise import LeftOut, TokenisedExample

REASON = "the same reply to the same prompt is rated the other way at least as often"


def without_contradictions(rows: Sequence[TokenisedExample], dropped: LeftOut) -> list[TokenisedExample]:
    """The rows of whose text there are more of their label than of the other, in their order.

    A text is the messages of prompt and reply. The other rows are added to `dropped`, each with the first
    that says the opposite; where both labels are equally frequent, that is all rows of the text.
    """
    texts = [digest(row.example.prompt, row.example.completion) for row in rows]
    votes = Counter((text, row.label) for text, row in zip(texts, rows, strict=True))
    first: dict[tuple[bytes, bool], TokenisedExample] = {}
    for text, row in zip(texts, rows, strict=True):
        first.setdefault((text, row.label), row)
    kept = []
    for text, row in zip(texts, rows, strict=True):
        if votes[text, row.label] > votes[text, not row.label]:
            kept.append(row)
        else:
            opposite = first[text, not row.label].example.message_id
            dropped.add(REASON, row.example.message_id, f"unlike {opposite}")
    return kept
