"""Password checks: how many at once, the delays before any hashing, and what is recorded."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlmodel import select

from app.web import password_checks
from app.web.password_checks import Delays, PasswordChecks, network_of
from storage.db.database import Database
from storage.db.tables import AuditEvent
from storage.errors import NotAuthenticated, ThumbloopError, TooOften
from storage.people import users
from storage.settings import Settings
from tests.support.clock import Clock
from tests.support.threads import in_a_loop


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checks(database: Database, clock: Clock) -> Iterator[PasswordChecks]:
    with database.write() as session:
        users.create_user(session, "ada", password="correct horse")
    made = PasswordChecks(database, Settings(), clock)
    yield made
    made.close()


def sign_in(checks: PasswordChecks, *attempts: tuple[str, str, str]) -> list[str | ThumbloopError]:
    """What each attempt answers, all made at once on one event loop."""

    async def attempt(name: str, password: str, address: str) -> str | ThumbloopError:
        try:
            return await checks.sign_in(name, password, address)
        except ThumbloopError as error:
            return error

    async def all_of_them() -> list[str | ThumbloopError]:
        return await asyncio.gather(*(attempt(*one) for one in attempts))

    return in_a_loop(all_of_them())


def test_failures_delay_a_name_and_success_resets_it(checks: PasswordChecks, clock: Clock) -> None:
    wrong, right = ("ada", "wrong horse", "10.0.0.1"), ("ada", "correct horse", "10.0.0.2")
    answers = sign_in(checks, *[wrong] * 8)
    refused = [one for one in answers if isinstance(one, TooOften)]
    assert sum(isinstance(one, NotAuthenticated) for one in answers) == password_checks.FREE_BY_NAME
    assert len(refused) == 3
    assert refused[0].retry_after == 1
    assert isinstance(sign_in(checks, right)[0], TooOften)  # before any hashing, so the right one too
    clock.now += 1
    assert isinstance(sign_in(checks, wrong)[0], NotAuthenticated)
    clock.now += 1
    (longer,) = sign_in(checks, right)
    assert isinstance(longer, TooOften)
    assert longer.retry_after == 1
    clock.now += 1
    assert isinstance(sign_in(checks, right)[0], str)
    assert isinstance(sign_in(checks, wrong)[0], NotAuthenticated)


def test_failures_delay_an_address_for_every_name(checks: PasswordChecks, clock: Clock) -> None:
    for attempt in range(password_checks.FREE_BY_ADDRESS):
        checks._addresses.add(network_of(f"2001:db8::{attempt}"))
    (refused,) = sign_in(checks, ("ada", "correct horse", "2001:db8::ffff"))
    assert isinstance(refused, TooOften)
    assert isinstance(sign_in(checks, ("ada", "correct horse", "2001:db8:1::1"))[0], str)
    clock.now += password_checks.FORGET_SECONDS
    assert isinstance(sign_in(checks, ("ada", "correct horse", "2001:db8::ffff"))[0], str)


def test_few_wait_and_the_others_are_refused_at_once(checks: PasswordChecks) -> None:
    most = password_checks.AT_ONCE + password_checks.MOST_WAITING
    attempts = [(f"nobody {n}", "wrong horse", f"10.0.1.{n}") for n in range(most + 5)]
    answers = sign_in(checks, *attempts)
    assert sum(isinstance(one, NotAuthenticated) for one in answers) == most
    assert sum(isinstance(one, TooOften) and one.retry_after == 5 for one in answers) == 5
    assert isinstance(sign_in(checks, ("ada", "correct horse", "10.0.2.1"))[0], str)


def test_failures_are_audited_without_name_and_password(checks: PasswordChecks, database: Database) -> None:
    sign_in(checks, ("ada", "my secret", "10.0.0.1"), ("my other secret", "x", "10.0.0.1"))
    assert isinstance(sign_in(checks, ("n" * 101, "x", "10.0.0.1"))[0], NotAuthenticated)
    with database.read() as session:
        found = session.exec(select(AuditEvent)).all()
        ada = users.find_user(session, "ada")
    assert ada is not None
    assert {event.target for event in found} == {ada.id, ""}
    assert {event.detail["address"] for event in found} == {"10.0.0.1"}
    assert "secret" not in str([event.model_dump() for event in found])


def test_delays_grow_to_a_limit_and_are_kept_in_bounded_memory(clock: Clock) -> None:
    delays = Delays(2, clock)
    waits = []
    for _ in range(9):
        delays.add("a")
        waits.append(delays.wait("a"))
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    for number in range(password_checks.MOST_KEPT + 10):
        delays.add(str(number))
    assert len(delays) == password_checks.MOST_KEPT
    assert delays.wait("a") == 0


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_addresses_of_one_network_count_as_one(address: str, network: str) -> None:
    assert network_of(address) == network
