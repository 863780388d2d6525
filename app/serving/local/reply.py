"""One reply by a model in this process: turns its token ids into text for its stream."""

from collections.abc import Sequence
from typing import Any

from app.serving.local.sampling import Sampler
from app.serving.reply import FinishReason, Reply, ReplyStream, Request
from app.serving.text import Detokeniser


class LocalReply(Reply):
    """Created when its stream begins."""

    def __init__(
        self, request: Request, stream: ReplyStream, tokenizer: Any, end_ids: frozenset[int]
    ) -> None:
        super().__init__(request, stream)
        self.sampler = Sampler(request.sampling)
        self._text = Detokeniser(tokenizer)
        self._end_ids = end_ids

    def take(self, tokens: Sequence[int]) -> FinishReason | None:
        """Pass on the new part of all `tokens` so far; returns why the reply ends, None if it goes on."""
        for token in tokens[len(self._token_ids) :]:
            self._note_token()
            self._token_ids.append(token)
            if token in self._end_ids:
                return "stop"
            self._add(self._text.add(token))
            if self._stops.found:
                return "stop"
        return "length" if len(self._token_ids) >= self.request.limit else None

    def _rest(self) -> str:
        return self._text.flush()
