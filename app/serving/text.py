"""Turns token ids into text as they arrive: complete characters only, cut before a stop string.

Uses only a tokenizer's `decode`.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from storage.chats.reasoning import overlap
from storage.chats.reasoning_tags import marks_of

# `decode` writes this for bytes that are no character, such as one that is still incomplete.
REPLACEMENT = "\ufffd"


class Detokeniser:
    """Text of one reply. A character whose bytes span several tokens is emitted once it is complete.

    Each step decodes from the last boundary between characters, not from the beginning. It includes the
    tokens just before that boundary, because SentencePiece tokenizers drop the space of a first token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # _ids[_context:_done] is emitted already and gives the context
        self._done = 0
        self._marks = marks_of(tokenizer)

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._pending()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text

    def flush(self) -> str:
        """The remaining text at the end, without a character that was never completed."""
        text = self._pending().rstrip(REPLACEMENT)
        self._context = self._done = len(self._ids)
        return text

    def _pending(self) -> str:
        before = self._decode(self._ids[self._context : self._done])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        if self._marks:
            known = self._tokenizer.added_tokens_decoder
            ids = [at for at in ids if at not in known or at in self._marks or not known[at].special]
        text = self._tokenizer.decode(
            ids, skip_special_tokens=not self._marks, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text


class StopStrings:
    """Passes text up to the first stop string; holds back what could be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that is certain to come before any stop string."""
        self._held += text
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            passed, self._held = self._held[: min(starts)], ""
            return passed
        keep = max((overlap(self._held, stop) for stop in self._stops), default=0)
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held
