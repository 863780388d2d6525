"""The scheduler alone, with replies of its own kind."""

import time
from collections.abc import Iterator

import pytest

from app.serving.admission import Admission
from app.serving.reply import Reply, ReplyStream, Request, Sampling
from app.serving.scheduler import Scheduler
from storage.errors import ThumbloopError


class Unfinished(Reply):
    """Fails at its end, as one did whose server said that it had null tokens."""

    def _tokens(self) -> int:
        raise TypeError("no number of tokens")


class AtOnce(Scheduler[Reply]):
    """Ends each reply as soon as it has started."""

    def _start(self, reply: Reply) -> bool:
        self.call(self._end, reply, "stop")
        return True

    def _stop(self, reply: Reply) -> None:
        self._end(reply, "cancelled")

    async def _stop_generating(self) -> None:
        """Nothing generates."""


@pytest.fixture
def scheduler() -> Iterator[AtOnce]:
    scheduler = AtOnce(1, Admission(1, 1))
    yield scheduler
    scheduler.close()


def test_a_reply_that_cannot_be_ended_ends_with_an_error(
    scheduler: AtOnce, caplog: pytest.LogCaptureFixture
) -> None:
    sampling = Sampling(temperature=0, top_p=1, max_new_tokens=1)

    def ask(kind: type[Reply]) -> ReplyStream:
        scheduler._admission.admit("ada", "v1")
        request = Request("1", "v1", "ada", [], [1], sampling, 1, time.perf_counter())
        stream = ReplyStream(lambda stream: scheduler.begin(kind(request, stream)) or (lambda: None))  # type: ignore[func-returns-value]
        assert list(stream) == []
        return stream

    with pytest.raises(ThumbloopError, match=r"could not be ended; see the server's log"):
        ask(Unfinished)
    assert "A reply could not be ended" in caplog.text
    assert "no number of tokens" in caplog.text
    assert ask(Reply).end.finish_reason == "stop", "the next one has its place"
