"""Watches what people think of a new version: rolls it back, and ends or promotes a canary, by their votes.

A thread looks whenever a vote or a deployment is new. It may run on several servers: what it does is decided
again in the transaction that does it, so it happens once.
"""

import logging
from functools import partial

from sqlmodel import Session

from app.background.watch import Watch
from app.serving.deployments import Deployments
from storage.chats import judgement
from storage.chats.judgement import Judgement, Rules
from storage.chats.votes import latest_event_id
from storage.db.database import Database
from storage.registry import model_versions
from storage.settings import Settings

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
TROUBLE = "What votes ask for cannot be done; trying again"


class Monitor:
    """The watch of one server; it does nothing if the settings leave every decision to an admin."""

    def __init__(self, database: Database, settings: Settings, deployments: Deployments) -> None:
        self._database = database
        self._settings = settings
        self._deployments = deployments
        self._seen: object = None  # what the last look was at
        self._watch = Watch("monitor", POLL_SECONDS, self._look, log, TROUBLE)
        self.start, self.stop = self._watch.start, self._watch.stop

    def judgements(self) -> list[Judgement]:
        """What the votes say of the deployed version and of the canary, as far as there is one to judge."""
        with self._database.read() as session:
            found = [judge(session, Rules.of(self._settings)) for judge in judgement.JUDGES.values()]
        return [one for one in found if one is not None]

    def _look(self) -> None:
        with self._database.read() as session:
            state = (_state(session), self._settings.model_copy())
        if state == self._seen:
            return
        for found in self.judgements():
            if self._wanted(found):
                self._act(found)
        self._seen = state

    def _wanted(self, found: Judgement) -> bool:
        automatic = {"worse": self._settings.auto_rollback, "better": self._settings.auto_promote}
        return (found.kind, found.outcome) in judgement.ACTIONS and automatic[found.outcome]

    def _act(self, found: Judgement) -> None:
        tell = bool(self._settings.webhook_url)
        act = partial(judgement.act, seen=found, rules=Rules.of(self._settings), tell=tell)
        if found.keeps_deployed:
            with self._database.write() as session:
                deployed = act(session)
        else:
            deployed = self._deployments.deploy_if(found.target_id, act)
        if deployed is not None:
            log.warning("%s answers by the votes of people. %s", deployed.name, found.why)


def _state(session: Session) -> object:
    """Changes with every vote, deployment and canary."""
    canary = model_versions.open_canary(session)
    newest = model_versions.deployments(session, limit=1)
    return latest_event_id(session), canary.id if canary is not None else None, [one.id for one in newest]
