"""Group commit: many small writes share one commit, which makes votes both durable and fast.

A commit waits for the disk, and votes are serialised anyway: SQLite has one writer, and on PostgreSQL their
ids must become visible in order. So writes that arrive during a commit wait in a queue, and the next commit
takes them all. A group first runs without savepoints. If one of its writes fails, the group is rolled back
and runs again with a savepoint for each write, so a failure affects no other write. Callers get their answer
only after the commit.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, Full, Queue
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session

from storage.errors import Busy, NotReady, NotStored, ThumbloopError
from storage.files.disk_full import is_locked

T = TypeVar("T")
Write = Callable[[Session], Any]
Waiting = tuple[Write, Future[Any]]
Outcome = tuple[Any, Exception | None]

LARGEST_GROUP = 256


class GroupCommit:
    """A writer thread over an engine whose transactions begin as writers; the first write starts it."""

    def __init__(
        self, engine: sa.Engine, lock: contextlib.AbstractContextManager[Any], *, longest_queue: int
    ) -> None:
        """`lock` is shared with the other writers of this process, so that none polls SQLite's own lock."""
        self._engine = engine
        self._lock = lock
        self._queue: Queue[Waiting | None] = Queue(longest_queue)
        self._thread = threading.Thread(target=self._work, name="group-commit", daemon=True)
        self._closed = False
        # So that no write is queued after the end marker, where it would be lost.
        self._accepting = threading.Lock()

    def submit(self, write: Callable[[Session], T]) -> Future[T]:
        """Queue a write; the future has its result once it is on disk, or the exception it raised.

        `write` may run twice, with the first run rolled back, so it must change only the session. If the
        commit fails on SQLite the future fails with NotStored, or with Busy if another process holds the
        lock; on PostgreSQL with the driver's error.
        Raises Busy if the queue is full and NotReady after `close`.
        """
        future: Future[T] = Future()
        try:
            with self._accepting:
                if self._closed:
                    raise NotReady("The server is stopping; send this again once it is back.")
                self._queue.put_nowait((write, future))
                if self._thread.ident is None:
                    self._thread.start()
        except Full:
            raise Busy(
                "{writes} writes are waiting already; try again in a second.",
                retry_after=1,
                writes=self._queue.maxsize,
            ) from None
        return future

    def close(self) -> None:
        """Commit the accepted writes, then end the thread."""
        with self._accepting:
            self._closed = True
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            group: list[Waiting | None] = [first]
            with contextlib.suppress(Empty):
                while len(group) < LARGEST_GROUP and group[-1] is not None:
                    group.append(self._queue.get_nowait())
            # Skip futures that were cancelled in the queue.
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
                raise  # the database itself failed; running the group again would not help
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
            session.commit()  # the transaction stays open: engine.begin() commits it after the session closes
        return answers

    def _not_stored(self, error: BaseException) -> BaseException:
        """The error for each caller of a group whose transaction failed."""
        if self._engine.dialect.name != "sqlite":
            return error  # if the connection was lost during the commit, nobody knows whether it was kept
        root = error
        while root.__context__ is not None:
            root = root.__context__
        failure: ThumbloopError = (
            Busy(
                "Another process holds the database's lock; nothing of this was kept. Try again in a moment.",
                code="database_unavailable",
            )
            if is_locked(root)
            else NotStored("The database could not store this ({root}); nothing of it was kept.", root=root)
        )
        failure.__cause__ = error
        return failure


def _plainly(session: Session, write: Write) -> Outcome:
    result = write(session)
    session.flush()
    session.expunge_all()  # so that two writes of one row do not share an object, which the second changes
    return result, None


def _in_a_savepoint(session: Session, write: Write) -> Outcome:
    try:
        with session.begin_nested():
            return _plainly(session, write)
    except sa.exc.OperationalError:
        # On a full disk SQLite rolls back the transaction, savepoints included: the group is lost.
        raise
    except Exception as error:
        session.expunge_all()
        return None, error
