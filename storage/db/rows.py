"""What most operations on tables need: a row by its id, a page of rows, the database's time, ids in order."""

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db.ids import is_id, new_id
from storage.db.tables import Identified, Table
from storage.errors import NotFound

Row = TypeVar("Row", bound=Identified)


def get_row(session: Session, table: type[Row], row_id: str, what: str, **how: Any) -> Row:
    """The row with this id; raises NotFound. `what` names its kind, `how` has arguments of `Session.get`."""
    row = session.get(table, row_id, **how) if is_id(row_id) else None
    if row is None:
        raise NotFound(f"There is no {what} {row_id}.")
    return row


def newest_rows(
    session: Session, table: type[Row], *conditions: Any, limit: int, before: str | None = None
) -> list[Row]:
    """The newest rows that meet the conditions; `before` is the id of the last one on the previous page."""
    query = select(table).where(*conditions).order_by(col(table.id).desc()).limit(limit)
    return list(session.exec(query.where(col(table.id) < before) if before is not None else query))


def count_changed(session: Session, statement: sa.Update | sa.Delete) -> int:
    """Execute an update or a delete; returns how many rows it changed."""
    return int(session.execute(statement).rowcount)  # type: ignore[attr-defined]


def execute_core(session: Session, statement: Any, values: Any = None) -> sa.CursorResult[Any]:
    """Execute a Core statement: much cheaper than by the session, whose pending writes are flushed first."""
    session.flush()
    return session.connection().execute(statement, values)


def refresh_statistics(session: Session, *tables: type[Table]) -> None:
    """Have PostgreSQL renew what its planner knows of these tables; nothing on SQLite.

    PostgreSQL does so itself about a minute after many rows were added. Until then it may plan for empty
    tables, and join by comparing every row with every other.
    """
    if session.get_bind().dialect.name == "postgresql":
        names = ", ".join(str(table.__tablename__) for table in tables)
        session.connection().execute(sa.text(f"ANALYZE {names}"))


# Rows may be of a little after a moment that was read before them. A time further in the future was written
# before the database's clock was set back.
AHEAD = timedelta(minutes=1)


def database_now(session: Session) -> datetime:
    """The time by the database's clock, so that leases of several machines are comparable."""
    if session.get_bind().dialect.name == "sqlite":
        text = session.execute(sa.text("SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")).scalar_one()
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    moment: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)


def next_id(session: Session, table: type[Identified], *conditions: Any) -> str:
    """An id that sorts after those of these rows, even if another machine's clock made them."""
    return new_id(after=session.exec(select(func.max(table.id)).where(*conditions)).one())
