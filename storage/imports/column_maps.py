"""Maps of columns under a name, so that `columns` of an import may be `surveys` instead of the whole map."""

import re

from sqlmodel import Session, select

from storage.db import audit
from storage.db.tables import ColumnMap
from storage.errors import InvalidInput, NotFound
from storage.imports.rows.options import ImportOptions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def list_column_maps(session: Session) -> list[ColumnMap]:
    return list(session.exec(select(ColumnMap).order_by(ColumnMap.name)))


def save_column_map(session: Session, name: str, columns: str, *, by: str) -> ColumnMap:
    """Keep `columns` under the name, or change it; raises InvalidInput if either is not one."""
    if not NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no name for a map; use at most 64 letters, digits, points, _ and -.",
            field="name",
        )
    if not ImportOptions(columns=columns).meant:
        raise InvalidInput("columns is empty; say such as prompt=question,reply=answer.", field="columns")
    found = _find(session, name) or ColumnMap(name=name, columns=columns)
    found.columns = columns
    session.add(found)
    session.flush()
    audit.record(session, by, "save columns", name, columns=columns)
    return found


def remove_column_map(session: Session, name: str, *, by: str) -> None:
    found = _find(session, name)
    if found is None:
        raise NotFound(f"There is no map of columns {name[:80]!r}. {_known(session)}")
    session.delete(found)
    audit.record(session, by, "remove columns", name, columns=found.columns)


def is_name(columns: str | None) -> bool:
    """Whether `columns` names a map, and is none."""
    return columns is not None and NAME.fullmatch(columns) is not None


def with_saved_columns(session: Session, options: ImportOptions) -> ImportOptions:
    """The options with the map that `columns` names in its place; raises InvalidInput if there is none."""
    if options.columns is None or not is_name(options.columns):
        return options
    found = _find(session, options.columns)
    if found is None:
        raise InvalidInput(
            f"There is no map of columns {options.columns!r}. {_known(session)} A map is written "
            "prompt=question,reply=answer.",
            field="columns",
        )
    return options.model_copy(update={"columns": found.columns})


def _find(session: Session, name: str) -> ColumnMap | None:
    return session.exec(select(ColumnMap).where(ColumnMap.name == name)).first()


def _known(session: Session) -> str:
    names = [one.name for one in list_column_maps(session)]
    return f"There are {', '.join(names)}." if names else "None is saved."
