"""Settings that an admin changed while the program runs.

They are in the database, so that every server and each trainer has them, and win over the environment and
thumbloop.toml, which have the configured values.
"""

from collections.abc import Callable
from typing import Any

from sqlmodel import Session, select

from storage.db import audit
from storage.db.tables import ChangedSetting, now
from storage.errors import BadSetting, InvalidInput, NotFound
from storage.settings import Settings, known_setting, why_fixed, with_changes
from storage.settings.validators import variable


def read_changes(session: Session) -> dict[str, ChangedSetting]:
    """By the setting's name."""
    return {row.name: row for row in session.exec(select(ChangedSetting))}


def current_settings(session: Session, configured: Settings) -> Settings:
    """The configured settings with the changes; raises BadSetting if these do not fit them."""
    return with_changes(configured, {name: row.value for name, row in read_changes(session).items()})


def change_setting(
    session: Session,
    configured: Settings,
    name: str,
    value: Any,
    *,
    by: str,
    check: Callable[[Settings], object],
) -> None:
    """Change a setting from now on; `value` may be text, as in an environment variable.

    Raises NotFound, or InvalidInput for a setting that cannot be changed here, and for a value that it does
    not take, alone or with the others, or that `check` refuses with BadSetting.
    """
    name = _checked(name)
    changes = {known: row.value for known, row in read_changes(session).items()}
    try:
        changed = with_changes(configured, changes | {name: value})
        check(changed)
    except BadSetting as error:
        raise InvalidInput(error.message, field="value") from error
    row = session.get(ChangedSetting, name) or ChangedSetting(name=name, value=None, by=by)
    before = row.value if name in changes else _stored(configured, name)
    row.value, row.by, row.at = _stored(changed, name), by, now()
    session.add(row)
    audit.record(session, by, "change setting", variable(name), before=before, value=row.value)
    session.flush()


def reset_setting(session: Session, configured: Settings, name: str, *, by: str) -> None:
    """Let the configured value apply again; does nothing if it does."""
    name = _checked(name)
    row = session.get(ChangedSetting, name)
    if row is not None:
        session.delete(row)
        value = _stored(configured, row.name)
        audit.record(session, by, "reset setting", variable(name), before=row.value, value=value)
        session.flush()


def _stored(settings: Settings, name: str) -> Any:
    return settings.model_dump(mode="json", include={name})[name]


def _checked(name: str) -> str:
    try:
        name = known_setting(name)
    except BadSetting as error:
        raise NotFound(error.message, field="name") from error
    if why := why_fixed(name):
        raise InvalidInput(
            f"{variable(name)} cannot be changed here: {why} Change it where the server starts.", field="name"
        )
    return name
