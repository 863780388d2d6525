"""Token ids to text while they arrive: whole characters only, and nothing of a stop string.

Knows a tokenizer's `decode`; knows no model.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# What `decode` puts where bytes are no character, among others where one is not complete yet.
REPLACEMENT = "\ufffd"


class Detokeniser:
    """Text of one reply. A character whose bytes are spread over several tokens comes out whole.

    Decoding starts again at the last point between two characters, not at the beginning, and includes
    the tokens before that point, because tokenizers of the SentencePiece kind decode a first token
    without its space.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # _ids from here to _done give the context that was emitted already
        self._done = 0

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is open."""
        self._ids.append(token_id)
        text = self._pending()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text

    def flush(self) -> str:
        """What is still open at the end, without a character that was never completed."""
        text = self._pending().rstrip(REPLACEMENT)
        self._context = self._done = len(self._ids)
        return text

    def _pending(self) -> str:
        before = self._decode(self._ids[self._context : self._done])
        return self._decode(self._ids[self._context :])[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


class StopStrings:
    """Lets text through up to the first stop string; holds back what could become the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """The text that is certainly before any stop string."""
        self._held += text
        starts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if starts:
            self.found = True
            passed, self._held = self._held[: min(starts)], ""
            return passed
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
