"""Many small writes, one commit: what makes votes on SQLite both durable and fast.

With `synchronous=FULL` a commit waits for the disk, and SQLite has one writer. So the writes that
arrive while one commit is under way wait in a queue, and the next commit takes them all. Each runs in
a savepoint of its own: one that fails takes nobody else's with it. Callers get their answer after the
commit, never before. Knows no tables.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session

from storage.errors import Busy, NotReady, NotStored

T = TypeVar("T")
Write = Callable[[Session], Any]

LARGEST_GROUP = 256
LONGEST_QUEUE = 2048


class GroupCommit:
    """A writer thread over an engine whose transactions begin as writers."""

    def __init__(self, engine: sa.Engine, lock: threading.Lock) -> None:
        """`lock` is what other writers of this process hold, so that nobody polls SQLite's own lock."""
        self._engine = engine
        self._lock = lock
        self._queue: Queue[tuple[Write, Future[Any]] | None] = Queue(LONGEST_QUEUE)
        self._thread = threading.Thread(target=self._work, name="group-commit", daemon=True)
        self._closed = False
        self._thread.start()

    def write(self, write: Callable[[Session], T]) -> T:
        """Run `write` in a session of its own and return its result once it is on disk.

        Raises what `write` raises, NotStored where the commit fails, and Busy instead of waiting behind
        a queue that is full.
        """
        if self._closed:
            raise NotReady("The server is stopping; send this again once it is back.")
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((write, future))
        except Full:
            raise Busy(
                f"{LONGEST_QUEUE} writes are waiting already; try again in a second.", retry_after=1
            ) from None
        return future.result()

    def close(self) -> None:
        """Commit what was accepted, then end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            last = False
            while len(group) < LARGEST_GROUP and not last:
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
                if item is None:
                    last = True
                else:
                    group.append(item)
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[tuple[Write, Future[Any]]]) -> None:
        answers: list[Callable[[], None]] = []
        try:
            with self._lock, self._engine.begin() as connection:
                for write, future in group:
                    answers.append(_run(connection, write, future))
        except BaseException as error:
            # The commit failed, a full disk say: nothing of this group is stored, and each caller is told.
            root = error
            while root.__context__ is not None:
                root = root.__context__
            for _, future in group:
                failure = NotStored(f"The database could not store this ({root}); nothing of it was kept.")
                failure.__cause__ = error
                future.set_exception(failure)
            return
        for answer in answers:
            answer()


def _run(connection: sa.Connection, write: Write, future: "Future[Any]") -> Callable[[], None]:
    # A session each, so that two writes of one row do not share (and later change) one object.
    session = Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
    try:
        result = write(session)
        session.commit()
    except sa.exc.OperationalError:
        # On a full disk SQLite rolls back the whole transaction, savepoints included: the group is lost.
        with contextlib.suppress(sa.exc.OperationalError):
            session.close()
        raise
    except Exception as error:
        failure = error
        session.close()
        return lambda: future.set_exception(failure)
    session.close()
    return lambda: future.set_result(result)
