"""People: accounts with a password, and anonymous visitors without a name."""

from collections.abc import Iterable
from datetime import timedelta

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlmodel import Session, col, select

from storage.db.ids import is_id
from storage.db.rows import database_now, get_row
from storage.db.tables import ApiToken, Table, User
from storage.errors import Conflict, InvalidInput, NotAuthenticated, NotFound
from storage.files.installation_key import pseudonym
from storage.people import tokens
from storage.people.end_users import SEPARATOR, find_end_user

ROLES = ("admin", "user")
LONGEST_NAME = 100
SHORTEST_PASSWORD = 10
IDLE_VISITORS_KEPT = timedelta(days=1)
_hasher = PasswordHasher()
# Verified when the name is unknown, so that response times reveal no names.
_no_such_hash = _hasher.hash("nobody has this password")


def create_user(session: Session, name: str, *, role: str = "user", password: str | None = None) -> User:
    """Add an account; raises InvalidInput, or Conflict if the name is taken."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        rule = f"must have 1 to {LONGEST_NAME} printable characters"
        raise InvalidInput(f"The name {name!r} {rule}.", field="name")
    _check_role(role)
    if find_user(session, name) is not None:
        raise Conflict(f"There is a user named {name!r} already; choose another name.", field="name")
    user = User(name=name, role=role, password_hash=_hash(password) if password is not None else None)
    session.add(user)
    session.flush()
    return user


def create_anonymous(session: Session) -> User:
    user = User()
    session.add(user)
    session.flush()
    return user


def ensure_user(session: Session, name: str, role: str) -> User:
    """The account of that name, created if needed; raises Conflict if it has another role."""
    user = find_user(session, name)
    if user is None:
        return create_user(session, name, role=role)
    if user.role != role:
        raise Conflict(
            f"The user {name!r} is {user.role!r}, not {role!r}; "
            f"change it with `thumbloop user role {name} {role}`.",
            field="role",
        )
    return user


def get_user(session: Session, user_id: str) -> User:
    return get_row(session, User, user_id, "user")


def find_user(session: Session, name: str) -> User | None:
    return session.exec(select(User).where(User.name == name)).first()


def find_person(session: Session, text: str, *, salt: bytes) -> User:
    """Find a person by account name, id, the user_hash of an export, or as `app/4711`: an application's name
    and its name for an end user. Raises NotFound.
    """
    user = find_user(session, text) or (session.get(User, text) if is_id(text) else None)
    application, separator, name = text.partition(SEPARATOR)
    if user is None and separator and (account := find_user(session, application)) is not None:
        user = find_end_user(session, account.id, name, salt=salt)
    if user is None and (user_id := find_by_hash(session, text, salt=salt)) is not None:
        user = session.get(User, user_id)
    if user is None:
        raise NotFound(f"There is no user {text!r}; `thumbloop user list` shows the accounts.", field="name")
    return user


def find_by_hash(session: Session, user_hash: str, *, salt: bytes) -> str | None:
    """The id of the person with that pseudonym."""
    for user_id in session.exec(select(User.id).execution_options(yield_per=1000)):
        if pseudonym(salt, user_id) == user_hash:
            return user_id
    return None


def list_users(session: Session) -> list[User]:
    """Named accounts, by name; anonymous visitors and end users are left out."""
    return list(session.exec(select(User).where(col(User.name).is_not(None)).order_by(col(User.name))))


def names_of(session: Session, user_ids: Iterable[str]) -> dict[str, str]:
    """The account names of these people, by id; others are left out."""
    found = select(User.id, User.name).where(col(User.id).in_(set(user_ids)), col(User.name).is_not(None))
    return {user_id: name for user_id, name in session.exec(found) if name is not None}


def verify_password(user: User | None, password: str) -> User:
    """The user, if this is their password; raises NotAuthenticated without saying what was wrong.

    Takes about 100 ms of CPU time and 64 MiB, also if there is no such user. Needs no database.
    """
    usable = user is not None and user.password_hash is not None and not user.disabled
    try:
        _hasher.verify(user.password_hash if user and user.password_hash else _no_such_hash, password)
    except VerifyMismatchError:
        usable = False
    if user is None or not usable:
        raise NotAuthenticated("The name or the password is wrong.", code="wrong_password")
    return user


def set_password(session: Session, user_id: str, password: str) -> int:
    """Change a password and end all sessions, links and tokens of the account; returns how many."""
    return _change(session, user_id, password_hash=_hash(password))


def set_role(session: Session, user_id: str, role: str) -> int:
    """Change a role and end all sessions, links and tokens of the account; returns how many."""
    _check_role(role)
    return _change(session, user_id, role=role)


def set_disabled(session: Session, user_id: str, disabled: bool) -> int:
    """Disable or enable an account; both end its sessions, links and tokens. Returns how many."""
    return _change(session, user_id, disabled=disabled)


def lock_user(session: Session, user_id: str) -> User:
    """The user, whom no other transaction changes or signs in until this one ends; raises NotFound."""
    return get_row(session, User, user_id, "user", with_for_update=True, populate_existing=True)


def remove_idle_visitors(session: Session, most: int = 500) -> int:
    """Remove anonymous visitors of over a day ago who did nothing, with their sessions; returns how many.

    `most` keeps the transaction short.
    """
    people = Table.metadata.tables["user_account"]
    idle = sa.select(people.c.id).where(
        *(people.c[name].is_(None) for name in ("name", "app_id", "erased_at")),
        people.c.quarantined.is_(False),
        people.c.created_at < database_now(session) - IDLE_VISITORS_KEPT,
    )
    for table in Table.metadata.tables.values():
        for key in table.foreign_keys:
            if key.column is people.c.id and table.name != ApiToken.__tablename__:
                idle = idle.where(~sa.exists().where(key.parent == people.c.id))
    ids = session.execute(idle.limit(most)).scalars().all()
    session.execute(sa.delete(ApiToken).where(col(ApiToken.user_id).in_(ids)))
    session.execute(sa.delete(User).where(col(User.id).in_(ids)))
    return len(ids)


def _change(session: Session, user_id: str, **columns: object) -> int:
    lock_user(session, user_id).sqlmodel_update(columns)
    return tokens.end_all(session, user_id)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise InvalidInput(f"The role {role!r} is not one of {', '.join(ROLES)}.", field="role")


def _hash(password: str) -> str:
    if len(password) < SHORTEST_PASSWORD:
        raise InvalidInput(
            "A password needs at least {least} characters.", field="password", least=SHORTEST_PASSWORD
        )
    return _hasher.hash(password)
