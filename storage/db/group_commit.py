"""Many small writes, one commit: what makes votes both durable and fast.

A commit waits for the disk, and votes take turns anyway: SQLite has one writer, and on PostgreSQL their
ids must become visible in order. So the writes that arrive while one commit is under way wait in a
queue, and the next commit takes them all. A group first runs without savepoints; where one of its
writes fails, it is rolled back and runs again with a savepoint each, so that one failure takes no other
write with it. Callers get their answer after the commit, never before.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session

from storage.errors import Busy, NotReady, NotStored

T = TypeVar("T")
Write = Callable[[Session], Any]
Waiting = tuple[Write, Future[Any]]
Outcome = tuple[Any, Exception | None]

LARGEST_GROUP = 256


class GroupCommit:
    """A writer thread over an engine whose transactions begin as writers."""

    def __init__(
        self, engine: sa.Engine, lock: contextlib.AbstractContextManager[Any], *, longest_queue: int
    ) -> None:
        """`lock` is what other writers of this process hold, so that none of them polls SQLite's own lock."""
        self._engine = engine
        self._lock = lock
        self._queue: Queue[Waiting | None] = Queue(longest_queue)
        self._thread = threading.Thread(target=self._work, name="group-commit", daemon=True)
        self._closed = False
        self._accepting = (
            threading.Lock()
        )  # so that no write is queued behind the end, where it would be lost
        self._thread.start()

    def submit(self, write: Callable[[Session], T]) -> Future[T]:
        """Queue a write; the future has its result once that is on disk, or what it raised.

        `write` may run twice, the first time being rolled back: it changes nothing but the session. The
        future fails with NotStored where the commit fails. Raises Busy instead of waiting behind a
        queue that is full.
        """
        future: Future[T] = Future()
        try:
            with self._accepting:
                if self._closed:
                    raise NotReady("The server is stopping; send this again once it is back.")
                self._queue.put_nowait((write, future))
        except Full:
            raise Busy(
                f"{self._queue.maxsize} writes are waiting already; try again in a second.", retry_after=1
            ) from None
        return future

    def close(self) -> None:
        """Commit what was accepted, then end the thread."""
        with self._accepting:
            self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group: list[Waiting | None] = [first]
            with contextlib.suppress(Empty):
                while len(group) < LARGEST_GROUP and group[-1] is not None:
                    group.append(self._queue.get_nowait())
            # Nobody waits for a future that was cancelled in the queue.
            self._commit(
                [each for each in group if each is not None and each[1].set_running_or_notify_cancel()]
            )
            if group[-1] is None:
                return

    def _commit(self, group: Sequence[Waiting]) -> None:
        try:
            try:
                answers = self._run(group, _plainly)
            except sa.exc.OperationalError:
                raise  # the database itself fails: running again would not help
            except Exception:
                answers = self._run(group, _in_a_savepoint)
        except BaseException as error:
            for _, future in group:
                future.set_exception(self._not_stored(error))
            return
        for (_, future), (result, failure) in zip(group, answers, strict=True):
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

    def _run(self, group: Sequence[Waiting], run: Callable[[Session, Write], Outcome]) -> list[Outcome]:
        with (
            self._lock,
            self._engine.begin() as connection,
            Session(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session,
        ):
            answers = [run(session, write) for write, _ in group]
            session.commit()  # leaves the transaction open: the connection commits, once the session is gone
        return answers

    def _not_stored(self, error: BaseException) -> BaseException:
        """The error for each caller of a group whose transaction failed."""
        if self._engine.dialect.name != "sqlite":
            return error  # a connection that was lost in the commit leaves open whether it was kept
        root = error
        while root.__context__ is not None:
            root = root.__context__
        failure = NotStored(f"The database could not store this ({root}); nothing of it was kept.")
        failure.__cause__ = error
        return failure


def _plainly(session: Session, write: Write) -> Outcome:
    result = write(session)
    session.flush()
    session.expunge_all()  # two writes of one row do not share (and later change) one object
    return result, None


def _in_a_savepoint(session: Session, write: Write) -> Outcome:
    savepoint = session.begin_nested()
    try:
        outcome = _plainly(session, write)
        savepoint.commit()
    except sa.exc.OperationalError:
        # On a full disk SQLite rolls back the whole transaction, savepoints included: the group is lost.
        raise
    except Exception as error:
        savepoint.rollback()
        session.expunge_all()
        return None, error
    return outcome
