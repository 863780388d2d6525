"""A server under load on a machine where programs are killed, the disk fills up and the clock jumps.

It runs in a namespace of its own, on a small disk that it may resize (tests/integration/test_chaos.py).
The seed settles the order of the events; what happens between them depends on the machine.
"""

import argparse
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import sqlalchemy as sa
from sqlmodel import col, select

from storage.db.database import open_database
from storage.db.tables import Message, ModelVersion, Vote, VoteEvent
from storage.registry.artifacts import Artifacts
from tests.support import http_loop
from tests.support.chaos.machine import Clock, Disk, Postgres
from tests.support.chaos.people import Crowd, Tally
from tests.support.live_server import LiveServer, answers, wait_until
from tests.support.programs import launcher, run_command
from tests.support.training_env import LENIENT

PEOPLE = 6
HOUR = 3600
SETTINGS: dict[str, object] = {
    "max_replies_per_minute": 0,
    "max_new_tokens": 60,
    "gate_min_votes": 2,
    "min_votes_per_class": 1,
    "checkpoint_steps": 2,
    "lease_seconds": 15,  # trainers of a busy machine keep it
    **LENIENT,
}
PATIENCE = 120.0  # for a server to serve again; bounds a failure
FULL_SECONDS = 5.0  # at most, for somebody to meet the full disk


class Chaos:
    """The machine and the events that befall it."""

    def __init__(
        self, server: LiveServer, disk: Disk, clock: Clock, postgres: Postgres | None, tally: Tally, seed: int
    ):
        self.tally = tally
        self.server, self.disk, self.clock, self.postgres = server, disk, clock, postgres
        self.draw = random.Random(seed)
        self.happened: Counter[str] = Counter()
        events = [self.kill_server, self.kill_trainer, self.move_clock, self.kill_server_and_move_clock]
        events += [self.fill_disk, self.fill_disk_and_kill_server]
        if postgres is not None:
            events += [self.kill_database, self.stop_database, self.kill_backend, self.kill_both]
        self.events: list[Callable[[], None]] = events

    def all_events(self) -> list[Callable[[], None]]:
        """Each once, in an order that is drawn anew."""
        return self.draw.sample(self.events, len(self.events))

    def kill_server(self) -> None:
        self._note("server killed")
        self.server.kill()
        self._serve()

    def kill_server_and_move_clock(self) -> None:
        self._note("server killed")
        self.server.kill()
        self.move_clock()
        self._serve()

    def kill_trainer(self) -> None:
        """Unless none comes in a while."""
        with contextlib.suppress(AssertionError, psutil.Error):
            wait_until(self.server.trainers, 10)
            time.sleep(self.draw.random())  # the moment of the kill is drawn, not waited for
            for trainer in self.server.trainers():
                trainer.kill()
                self._note("trainer killed")

    def move_clock(self) -> None:
        self._note("clock moved")
        self.clock.jump_to(self.draw.choice((-HOUR, 0, HOUR)))

    def fill_disk(self) -> None:
        with self._full_disk():
            pass

    def fill_disk_and_kill_server(self) -> None:
        with self._full_disk():
            self._note("server killed")
            self.server.kill()
            self.server.start(wait=False)
            self.tally.wait_for_refusal(FULL_SECONDS)
        self._serve(started=True)

    def kill_database(self) -> None:
        assert self.postgres is not None
        self._note("database killed")
        self.postgres.kill()
        self.postgres.start()

    def stop_database(self) -> None:
        assert self.postgres is not None
        self._note("database stopped at once")
        self.postgres.stop_at_once()
        self.postgres.start()

    def kill_backend(self) -> None:
        """One connection's process is killed, so PostgreSQL ends all of them and recovers."""
        assert self.postgres is not None
        self._note("database's process killed")
        with contextlib.suppress(psutil.Error):
            self.draw.choice(self.postgres.processes()).kill()
        self.postgres.start()

    def kill_both(self) -> None:
        self._note("server killed")
        self.server.kill()
        self.kill_database()
        self._serve()

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        self._note("disk filled")
        if self.postgres is not None:
            self.postgres.begin_new_log()  # whose file is the first that needs room
        self.disk.fill(self.draw.choice((0, 20_000, 300_000)))
        try:
            if self.tally.wait_for_refusal(FULL_SECONDS):
                self._note("disk filled, and somebody was refused")
            yield
        finally:
            self.disk.make_room()
        if self.postgres is not None:
            if not self.postgres.runs():
                self._note("database ended on the full disk")
            self.postgres.start()

    def _serve(self, *, started: bool = False) -> None:
        """Until the server is ready; one that a full disk or a missing database ended is started again."""
        if not started:
            self.server.start(wait=False)

        def ready() -> bool:
            assert self.server.process is not None
            if self.server.process.poll() is not None:
                self._note(f"start ended with {self.server.process.poll()}")
                self.server.start(wait=False)
            return answers(f"{self.server.url}/readyz")

        wait_until(ready, PATIENCE, lambda: self.server.log.read_text()[-4000:])

    def _note(self, what: str) -> None:
        self.happened[what] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for logs")
    parser.add_argument("--disk", type=Path, required=True, help="a mounted tmpfs")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--faketime", type=Path, required=True, help="the library")
    parser.add_argument("--postgresql", action="store_true")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    with ExitStack() as stack:
        clock = Clock(given.faketime, given.folder / "clock")
        with clock.applied():  # forks have the libraries of the process that they are forked from
            stack.enter_context(launcher())
        disk = Disk(given.disk)
        settings = {**SETTINGS, "data_dir": given.disk / "data", "model": given.model}
        postgres = None
        if given.postgresql:
            postgres = Postgres(given.disk / "postgres", given.folder / "postgres.log", clock.environment)
            stack.callback(postgres.kill)
            postgres.start()
            settings["database_url"] = postgres.address
        server = LiveServer(settings)
        server.log = given.folder / "server.log"
        server.more_environment = clock.environment
        stack.enter_context(server)
        crowd = Crowd(server, PEOPLE, given.seed)
        chaos = Chaos(server, disk, clock, postgres, crowd.tally, given.seed)
        explain = lambda: server.log.read_text()[-4000:]  # noqa: E731
        began = time.monotonic()
        with crowd:
            crowd.tally.wait_for(PATIENCE, explain, votes=PEOPLE, replies=PEOPLE)
            while not chaos.happened or time.monotonic() - began < given.seconds:
                for event in chaos.all_events():
                    print(f"{time.monotonic() - began:6.1f} {event.__name__}", file=sys.stderr, flush=True)
                    event()
                    crowd.complain()
                    # Nothing that happens may end the service, and two events have some load between them.
                    crowd.tally.wait_for(PATIENCE, explain, votes=3, replies=2)
        seconds = time.monotonic() - began
        clock.jump_to(0)
        server.kill()
        server.start()
        check(server, crowd)
        report = {
            "seed": given.seed,
            "seconds": round(seconds),
            "events": dict(chaos.happened),
            "acknowledged": dict(crowd.tally.counts),
            "refused": dict(crowd.tally.refused),
        }
    print(json.dumps(report, indent=2))


def check(server: LiveServer, crowd: Crowd) -> None:
    """Everything acknowledged is there, nothing is stuck, the loop goes on, and `doctor` finds no fault."""
    assert not crowd.tally.unexpected, crowd.tally.unexpected
    with server.client() as http, contextlib.closing(open_database(server.settings)) as database:

        def settled() -> bool:
            runs = http_loop.checked(http.get("/api/v1/training-runs?limit=1"))["items"]
            with database.read() as session:
                streaming = session.exec(select(Message.id).where(Message.state == "streaming")).all()
            return not streaming and all(run["state"] not in ("requested", "running") for run in runs)

        wait_until(settled, 240, lambda: server.log.read_text()[-4000:])
        for person in crowd.everybody:
            with server.client(person.role, person.name) as theirs:
                person.check(theirs)
        http_loop.import_votes(http, 18)  # enough for a run, however few people voted
        run_id = http_loop.request_run(http, force=True)
        run = http_loop.wait_for_run(server, http, run_id)
        assert run["state"] == "succeeded", http_loop.explain(server, run_id)
        with database.read() as session:
            artifacts = Artifacts(server.settings.data_dir)
            for version in session.exec(select(ModelVersion).where(col(ModelVersion.path).is_not(None))):
                artifacts.verify(str(version.path), version.files)
            votes = {vote.message_id: (vote.label, vote.revision) for vote in session.exec(select(Vote))}
            logged: dict[str, list[VoteEvent]] = {}
            for event in session.exec(select(VoteEvent).order_by(col(VoteEvent.id))):
                logged.setdefault(event.message_id, []).append(event)
            if database.dialect == "sqlite":
                assert session.execute(sa.text("PRAGMA integrity_check")).scalar_one() == "ok"
        for message_id, events in logged.items():
            assert [event.revision for event in events] == list(range(1, len(events) + 1)), message_id
            assert (events[-1].label, events[-1].revision) == votes[message_id]
        assert votes.keys() == logged.keys()
    assert server.stop() == 0
    found = run_command("doctor", environment=server.environment)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "fail" not in {line.split()[0] for line in found.stdout.splitlines() if line.strip()}


if __name__ == "__main__":
    main()
