"""A simulated month in a new store, for newcomers and for screenshots.

People, votes, dates and the texts of replies are simulated: people ask what is in `demo.jsonl` and read one
of the two replies that stand there, the better one as often as the version in use is good. All else is real:
votes pass the rules of the store, the trainer trains on them, the gate decides, and a version that is liked
less is rolled back by the same evidence as on a server. A day passes when every time in the store moves a day
into the past.
"""

import json
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats import judgement, signals
from storage.chats.chats import add_user_message, begin_reply, create_chat, finish_reply
from storage.chats.judgement import Rules
from storage.chats.votes import cast_vote
from storage.db import audit
from storage.db.database import Database
from storage.db.rows import execute_core
from storage.db.tables import Message, ModelVersion, Review, Table, UtcDateTime, Vote, now
from storage.people.tokens import create_token
from storage.people.users import create_user
from storage.privacy.quarantine import set_excluded, set_quarantine
from storage.registry import canaries, model_versions, training_runs
from storage.registry.artifacts import Artifacts
from storage.review import second_ratings
from storage.settings import Settings
from trainer.runs.attempt import attempt_run

Progress = Callable[[Mapping[str, Any]], None]

DAYS = 30
SEED = 11
SOURCE = "demo"  # of its chats: exports say it, too
ADMINS = ("ada", "ben")
PEOPLE = ("chloe", "dmitri", "elif", "farid", "greta", "hiro", "ines", "jonas", "kofi", "lena", *ADMINS)
SPAMMER = "mallory"
# A training takes seconds: few rows, and the gate looks at the held-out votes alone, which are so few that it
# has to be lenient.
TRAINING: dict[str, Any] = {
    "data_policy": "balanced",
    "row_budget": 28,
    "min_votes_per_class": 10,
    "batch_size": 2,
    "max_length": 128,
    "sampled_prompts": 0,
    "hold_out_fraction": 0.3,
    "gate_prompts": 0,
    # A few held-out votes say anything, and the month needs the version that people do not like.
    "gate_loss_tolerance": 100.0,
    "gate_auc_tolerance": 1.0,
    "auto_deploy": False,
}
# How often the reply of a version is the better one; a newer one is as good as the last.
QUALITY = (0.5, 0.66, 0.25, 0.72, 0.8)
VOTED = 0.55  # of the replies
WRONG = 0.07  # of the votes
SPAM = 9
NIGHT = 3.0  # the hour of a training


class Month:
    """Fills a store that has nothing in it."""

    def __init__(self, database: Database, settings: Settings, report: Progress) -> None:
        self.database = database
        self.settings = settings.model_copy(update=TRAINING)
        self.report = report
        self.draw = random.Random(SEED)
        lines = Path(__file__).with_name("demo.jsonl").read_text(encoding="utf-8").splitlines()
        self.scenes: list[dict[str, str]] = [json.loads(line) for line in lines]
        self.rules = Rules.of(settings)
        self.people: dict[str, str] = {}  # ids by name
        # What somebody does in the night before a day: the first day is 0.
        self.nights: dict[int, Callable[[], object]] = {
            1: self._train_too_early,
            7: lambda: self._train_and_deploy("It was not worse on the held-out votes."),
            10: self._stop_spam,
            13: lambda: self._train_and_deploy("Its replies are shorter. Let us see."),
            18: self._roll_back,
            20: self._train_and_try,
            25: self._cancel,
            28: self._train,
        }

    def live(self) -> None:
        with self.database.write() as session:
            audit.record(session, "thumbloop", audit.DEMONSTRATION, "everything here")
            installation = model_versions.ensure_base(session, self.settings.model).id
            for name in (*PEOPLE, SPAMMER):
                role = "admin" if name in ADMINS else "user"
                self.people[name] = create_user(session, name, role=role).id
        Artifacts(self.settings.data_dir).note_installation(installation)
        for day in range(DAYS + 1):
            self.report({"phase": f"day {day + 1} of {DAYS + 1}", "step": day, "steps": DAYS})
            self._pass(NIGHT)
            if day in self.nights:
                self.nights[day]()
            self._live_a_day(day, 24.0 if day < DAYS else _hour())
        with self.database.write() as session:
            create_token(session, self.people["ben"], name="help desk")

    def _live_a_day(self, day: int, end: float) -> None:
        """People visit between seven and eleven, fewer of them at weekends, and admins look at the votes."""
        weekend = (now() - timedelta(days=DAYS - day)).weekday() >= 5
        visits = self.draw.randint(6, 9) if weekend else self.draw.randint(10, 16)
        hour = NIGHT
        moments = sorted(self.draw.uniform(7, 23) for _ in range(visits))
        with self.database.write() as session:
            for moment in filter(lambda moment: moment < end, moments):
                _pass(session, moment - hour)
                hour = moment
                self._visit(session, self._somebody())
            self._review(session)
            _pass(session, max(end - hour, 0))
            self._judge(session)

    def _somebody(self) -> str:
        """Some people come often."""
        weights = [1 / (place + 1) ** 0.6 for place in range(len(PEOPLE))]
        return self.people[self.draw.choices(PEOPLE, weights)[0]]

    def _visit(self, session: Session, person: str) -> None:
        chat = create_chat(session, person, source=SOURCE)
        version = canaries.answering_version(session, chat)
        quality = QUALITY[min(version.number, len(QUALITY)) - 1]
        for scene in self.draw.sample(self.scenes, self.draw.choices((1, 2, 3), (5, 3, 1))[0]):
            better = self.draw.random() < quality
            text = scene["liked" if better else "disliked"]
            reply = self._reply(session, chat.id, version.id, scene["prompt"], text)
            if self.draw.random() < VOTED:
                self._vote(session, person, reply.id, scene, better)
            elif self.draw.random() < 0.2:
                kind: Any = "copied" if better else "regenerated"
                signals.record_signal(session, user_id=person, message_id=reply.id, kind=kind)

    def _reply(self, session: Session, chat: str, version: str, prompt: str, text: str) -> Message:
        question = add_user_message(session, chat, prompt)
        reply = begin_reply(session, chat, question.id, model_version_id=version, sampling={})
        return finish_reply(session, reply.id, content=text, state="complete", finish_reason="stop")

    def _vote(
        self, session: Session, person: str, message: str, scene: Mapping[str, str], better: bool
    ) -> None:
        up = better != (self.draw.random() < WRONG)
        said: dict[str, Any] = {}
        if up and self.draw.random() < 0.3:
            said["tags"] = [self.draw.choice(self.settings.vote_tags_up)]
        elif not up and not better:
            said["tags"] = [scene["fault"]] if self.draw.random() < 0.7 else []
            said["comment"] = scene["comment"] if self.draw.random() < 0.4 else None
            said["correction"] = scene["liked"] if self.draw.random() < 0.06 else None
        cast_vote(session, user_id=person, message_id=message, label=up, **said)

    def _review(self, session: Session) -> None:
        """An admin rates a few votes again, mostly as they are, and excludes one that is a slip."""
        rated = select(Review.vote_id)
        votes = select(Vote).where(col(Vote.label).is_not(None), col(Vote.id).not_in(rated))
        newest = list(session.exec(votes.order_by(col(Vote.id).desc()).limit(12)))
        for vote in self.draw.sample(newest, min(2, len(newest))):
            text = session.get_one(Message, vote.message_id).content
            good = any(text == scene["liked"] for scene in self.scenes)
            slip = good != vote.label
            by = self.people[self.draw.choice(ADMINS)]
            label = good if self.draw.random() < 0.9 else not good
            note = "The thumb slipped, I think." if slip and label == good else None
            second_ratings.rate(session, vote.id, by=by, label=label, note=note)
            audit.record(session, by, "review", vote.id)
            if note:
                set_excluded(session, [vote.id], True, by=by, reason=note)

    def _stop_spam(self) -> None:
        with self.database.write() as session:
            chat = create_chat(session, self.people[SPAMMER], source=SOURCE)
            version = model_versions.deployed_version(session)
            for scene in self.draw.sample(self.scenes, SPAM):
                reply = self._reply(session, chat.id, version.id, scene["prompt"], scene["liked"])
                user = self.people[SPAMMER]
                cast_vote(session, user_id=user, message_id=reply.id, label=False, comment="VISIT MY SHOP")
            _pass(session, 2.0)
            reason = "Advertises in comments, and dislikes every reply."
            set_quarantine(session, self.people[SPAMMER], True, by=self.people["ada"], reason=reason)

    def _judge(self, session: Session) -> None:
        """What the server's monitor does."""
        for judge in judgement.JUDGES.values():
            found = judge(session, self.rules)
            if found is not None and (found.kind, found.outcome) in judgement.ACTIONS:
                judgement.act(session, found, self.rules, tell=False)

    def _request(self, trigger: str, by: str | None) -> str:
        with self.database.write() as session:
            return training_runs.request_run(session, trigger=trigger, requested_by=by).id

    def _train(self, *, trigger: str = "schedule", by: str | None = None) -> ModelVersion | None:
        """The version that a run made, unless the gate rejected it."""
        run_id = self._request(trigger, by)
        self.report({"phase": "training"})
        attempt_run(self.database, self.settings, run_id, owner="demo")
        with self.database.read() as session:
            version = model_versions.version_of_run(session, run_id)
        return version if version is not None and version.state != "rejected" else None

    def _train_too_early(self) -> None:
        self._train(trigger="admin", by=self.people["ada"])

    def _train_and_deploy(self, why: str) -> None:
        if (version := self._train()) is not None:
            with self.database.write() as session:
                model_versions.deploy_version(session, version.id, by=self.people["ada"], why=why)

    def _roll_back(self) -> None:
        """The monitor has done it by now, unless chance was kind to the bad version."""
        with self.database.write() as session:
            if not any(row.by == judgement.ACTOR for row in model_versions.deployments(session)):
                model_versions.roll_back(session, by=self.people["ada"], why="People like it less.")

    def _train_and_try(self) -> None:
        if (version := self._train()) is not None:
            by, why = self.people["ben"], "A few people first, this time."
            with self.database.write() as session:
                canaries.start_canary(session, version.id, share=0.5, by=by, why=why)

    def _cancel(self) -> None:
        """An admin asks for a run and changes their mind."""
        by = self.people["ben"]
        run_id = self._request("admin", by)
        with self.database.write() as session:
            training_runs.cancel_run(session, run_id)
            audit.record(session, by, "cancel run", run_id)

    def _pass(self, hours: float) -> None:
        with self.database.write() as session:
            _pass(session, hours)


def _hour() -> float:
    return now().hour + now().minute / 60


# SQLite's dates have milliseconds, and what is stored has microseconds.
_EARLIER = "%Y-%m-%d %H:%M:%f000"
_TIMES = {
    table: [column for column in table.columns if isinstance(column.type, UtcDateTime)]
    for table in Table.metadata.sorted_tables
}
_MOVE = [
    sa.update(table).values(
        {time: sa.func.strftime(_EARLIER, time, sa.bindparam("passed")) for time in times}
    )
    for table, times in _TIMES.items()
    if times
]


def _pass(session: Session, hours: float) -> None:
    """Let time pass: every time in the store moves into the past."""
    for statement in _MOVE:
        execute_core(session, statement, {"passed": f"-{hours * 3600:.3f} seconds"})
    session.expire_all()
