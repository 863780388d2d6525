"""Sessions, links and tokens end when they must, on both engines."""

from datetime import timedelta

import pytest
from sqlmodel import Session, col, select

from app.background.housekeeping import Housekeeping
from storage.db.database import Database
from storage.db.tables import ApiToken, User, now
from storage.errors import NotAuthenticated
from storage.people import tokens, users
from storage.settings import Settings
from tests.support.live_server import wait_until
from tests.support.threads import at_once


def add_secrets(session: Session, user: User) -> list[str]:
    return [tokens.create_token(session, user.id, name=kind, kind=kind)[1] for kind in tokens.KINDS]


def working(session: Session, secrets: list[str]) -> int:
    return sum(tokens.authenticate(session, plain, kinds=tokens.KINDS) is not None for plain in secrets)


@pytest.mark.parametrize("change", ["password", "role", "disable"])
def test_a_changed_account_ends_what_was_signed_in_before(database: Database, change: str) -> None:
    with database.write() as session:
        ada, bob = (users.create_user(session, name, password="correct horse") for name in ("ada", "bob"))
        secrets, others = add_secrets(session, ada), add_secrets(session, bob)
        assert working(session, secrets) == len(tokens.KINDS)
        if change == "password":
            users.set_password(session, ada.id, "another horse")
        elif change == "role":
            users.set_role(session, ada.id, "admin")
        else:
            users.set_disabled(session, ada.id, True)
            users.set_disabled(session, ada.id, False)
        assert working(session, secrets) == 0
        assert working(session, others) == len(tokens.KINDS)


def test_enabling_an_account_revives_nothing_of_an_older_version(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada", password="correct horse")
        secrets = add_secrets(session, ada)
        ada.disabled = True
        users.set_disabled(session, ada.id, False)
        assert working(session, secrets) == 0


def test_a_link_signs_in_once_however_many_open_it_at_once(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada")
        links = [tokens.create_token(session, ada.id, name="link", kind="login")[1] for _ in range(5)]

    def redeem(link: str) -> bool:
        try:
            with database.write() as session:
                tokens.redeem_login(session, link)
        except NotAuthenticated:
            return False
        return True

    for link in links:
        assert sum(at_once([lambda link=link: redeem(link)] * 8)) == 1  # type: ignore[misc]


def test_ended_sessions_and_links_are_removed_after_a_week(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada")
        for kind in tokens.KINDS:
            for days in (-8, -6, 6):
                tokens.create_token(session, ada.id, name=str(days), kind=kind, ttl=timedelta(days=days))
        revoked, _ = tokens.create_token(session, ada.id, name="revoked", kind="session")
        revoked.revoked_at = now() - timedelta(days=8)
        session.flush()
        assert tokens.remove_ended(session) == len(tokens.SIGN_INS) + 1
        left = session.exec(select(ApiToken.name).where(col(ApiToken.kind) != "api")).all()
        assert sorted(left) == sorted(["-6", "6"] * len(tokens.SIGN_INS))


def test_visitors_who_did_nothing_are_removed_after_a_day(database: Database) -> None:
    from storage.chats import chats

    with database.write() as session:
        yesterday = now() - timedelta(days=1, minutes=1)
        idle, busy, fresh = (users.create_anonymous(session) for _ in range(3))
        idle.created_at = busy.created_at = yesterday
        named = users.create_user(session, "ada")
        named.created_at = yesterday
        chats.create_chat(session, busy.id)
        (plain, *_) = add_secrets(session, idle)
        session.flush()
        assert users.remove_idle_visitors(session) == 1
        assert tokens.authenticate(session, plain) is None
        assert {user.id for user in session.exec(select(User))} == {busy.id, fresh.id, named.id}


def test_a_server_removes_ended_sessions_and_idle_visitors_by_itself(
    database: Database, settings: Settings
) -> None:
    with database.write() as session:
        ada, idle = users.create_user(session, "ada"), users.create_anonymous(session)
        idle.created_at = now() - timedelta(days=2)
        tokens.create_token(session, ada.id, name="old", kind="session", ttl=timedelta(days=-8))

    def left() -> list[str | None]:
        with database.read() as session:
            return [*session.exec(select(User.name)), *session.exec(select(ApiToken.name))]

    housekeeping = Housekeeping(database, settings)
    housekeeping.start()
    wait_until(lambda: left() == ["ada"])
    housekeeping.stop()
