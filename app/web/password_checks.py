"""Password checks: a small pool of their own, and growing delays before any password is hashed.

A check takes 64 MiB and much CPU time whoever asks, so this bounds what strangers can make the server spend.
The delays are in this process's memory: each server counts for itself, and a restart forgets.
"""

import asyncio
import ipaddress
import logging
import math
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from app.rate_limit import PerMinute
from app.web.auth import start_session
from storage.db import audit
from storage.db.database import Database
from storage.errors import NotAuthenticated, TooOften
from storage.people import users
from storage.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 2
MOST_WAITING = 16
FREE_BY_NAME = 5  # failures without a delay
FREE_BY_ADDRESS = 20  # higher, because people behind one router share an address
LONGEST_DELAY = 60.0
FORGET_SECONDS = 900.0
MOST_KEPT = 10_000
LONGEST_ADDRESS = 100
MOST_AUDITED = 60  # failures a minute
ACTOR = "sign-in"
WRONG = "The name or the password is wrong."


class Delays:
    """Counts failures by key. From the `free`th on, each doubles the delay, from 1 s up to LONGEST_DELAY.

    Keeps at most MOST_KEPT keys and forgets the one that failed longest ago. Not safe from several threads.
    """

    def __init__(self, free: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._free = free
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # failures, and the last one's time

    def __len__(self) -> int:
        return len(self._failed)

    def wait(self, key: str) -> float:
        """Seconds until this key may try again."""
        failures, last = self._recent(key)
        if failures < self._free:
            return 0.0
        delay = min(2.0 ** min(failures - self._free, 10), LONGEST_DELAY)
        return max(0.0, last + delay - self._clock())

    def add(self, key: str) -> None:
        failures, _ = self._recent(key)
        self._failed[key] = failures + 1, self._clock()
        self._failed.move_to_end(key)
        if len(self._failed) > MOST_KEPT:
            self._failed.popitem(last=False)

    def take_back(self, key: str) -> None:
        failures, last = self._failed.get(key, (0, 0.0))
        if failures > 1:
            self._failed[key] = failures - 1, last
        else:
            self.reset(key)

    def reset(self, key: str) -> None:
        self._failed.pop(key, None)

    def _recent(self, key: str) -> tuple[int, float]:
        failures, last = self._failed.get(key, (0, 0.0))
        return (failures, last) if last + FORGET_SECONDS > self._clock() else (0, 0.0)


class PasswordChecks:
    """Signs people in by name and password. Call it on the event loop only."""

    def __init__(
        self, database: Database, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._settings = settings
        self._pool = ThreadPoolExecutor(AT_ONCE, "password-check", initializer=_lower_priority)
        self._under_way = 0
        self._names = Delays(FREE_BY_NAME, clock)
        self._addresses = Delays(FREE_BY_ADDRESS, clock)
        self._audited = PerMinute(MOST_AUDITED, clock)

    async def sign_in(self, name: str, password: str, address: str) -> str:
        """Start a session and return its secret; raises NotAuthenticated, or TooOften before any hashing.

        An attempt counts as a failure from its beginning, so that parallel ones do not all go ahead.
        """
        if len(name) > users.LONGEST_NAME:  # no account has such a name
            raise NotAuthenticated(WRONG, code="wrong_password")
        network = network_of(address)
        wait = max(self._names.wait(name), self._addresses.wait(network))
        if wait:
            raise _too_often("Too many failed sign-ins; try again in {seconds} s.", math.ceil(wait))
        if self._under_way >= AT_ONCE + MOST_WAITING:
            raise _too_often("Too many people are signing in; try again in {seconds} s.", 5)
        self._names.add(name)
        self._addresses.add(network)
        self._under_way += 1
        running = self._pool.submit(self._check, name, password, network)
        running.add_done_callback(partial(self._leave_on, asyncio.get_running_loop()))
        plain = await asyncio.wrap_future(running)
        self._names.reset(name)
        self._addresses.take_back(network)
        return plain

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _leave_on(self, loop: asyncio.AbstractEventLoop, _: Future[str]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self._under_way -= 1

    def _check(self, name: str, password: str, network: str) -> str:
        with self._database.read() as session:
            user = users.find_user(session, name)
        try:
            user = users.verify_password(user, password)
            with self._database.write() as session:
                known = users.lock_user(session, user.id)
                if known.disabled or known.password_hash != user.password_hash:
                    raise NotAuthenticated(WRONG, code="wrong_password")  # changed during the check
                return start_session(session, user.id, self._settings)
        except NotAuthenticated:
            self._record_failure(user.id if user is not None else "", network)
            raise

    def _record_failure(self, user_id: str, network: str) -> None:
        # An unknown name is not recorded: people also type passwords into that field.
        log.warning("Refused a sign-in of %s from %s.", user_id or "an unknown name", network)
        if self._audited.take() == 0:
            with self._database.write() as session:
                audit.record(session, ACTOR, audit.FAILED_SIGN_IN, user_id, address=network)


def network_of(address: str) -> str:
    """The address, or of an IPv6 address its /64, because one household or attacker has all of that."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:LONGEST_ADDRESS]
    if isinstance(known, ipaddress.IPv4Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, 64), strict=False))


def _lower_priority() -> None:
    """Of this thread and of those that argon2 starts from it: others' requests go first."""
    if sys.platform == "linux":  # elsewhere a process has one priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)


def _too_often(why: str, seconds: int) -> TooOften:
    return TooOften(why, retry_after=seconds, code="too_many_sign_ins", seconds=seconds)
