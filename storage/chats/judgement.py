"""What people's votes say of a version that was just deployed, or of a canary, and what follows.

A deployed version is compared with the one that rolling back would deploy, a canary with the deployed one.
The votes are counted anew each time, so that a vote that was changed, withdrawn or quarantined counts as it
stands.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats import webhook_outbox
from storage.chats.proportions import Comparison, Tally, compare
from storage.chats.stats import canary_sides
from storage.chats.sums import counts
from storage.db import audit
from storage.db.tables import FINISHED, Chat, Deployment, Message, ModelVersion, Vote
from storage.errors import Conflict
from storage.registry.model_versions import (
    close_canary,
    deploy_version,
    get_version,
    lock_versions,
    open_canary,
    roll_back_target,
    set_state,
)
from storage.settings import Settings

ACTOR = "monitor"
MOST_VOTES = 2000  # the error rates in docs/serving.md are those of so many looks
# Where no person may decide alone, each counts for so many votes on a version, or for this share of them.
VOTES_OF_ONE = 10
SHARE_OF_ONE = 0.2
# What follows from a judgement: the name of the event, and how a reason begins.
ACTIONS = {
    ("deployment", "worse"): ("version.rolled_back", "Rolled back"),
    ("canary", "worse"): ("canary.ended", "Its canary was ended"),
    ("canary", "better"): ("version.promoted", "Promoted"),
}

Outcome = Literal["worse", "better", "undecided"]
Ballot = tuple[str, bool]  # who, and whether it was a thumb up


@dataclass(frozen=True)
class Rules:
    error_rate: float  # the evidence needed is its inverse
    min_votes: int  # on the new version
    one_person_may_decide: bool
    most_votes: int = MOST_VOTES  # of each version

    @classmethod
    def of(cls, settings: Settings) -> "Rules":
        alone = {"yes": True, "no": False, "auto": settings.auth == "anonymous"}
        return cls(
            error_rate=settings.monitor_error_rate,
            min_votes=settings.monitor_min_votes,
            one_person_may_decide=alone[settings.one_person_may_decide],
        )


@dataclass(frozen=True)
class Judgement:
    """The new version is the deployed one or the canary; `old` is what it is compared with."""

    kind: Literal["deployment", "canary"]
    subject_id: str  # of the deployment, or of the canary
    version_id: str
    version: str
    old_id: str
    compared_with: str
    new: Tally
    old: Tally
    people: int  # who voted on the new version
    comparison: Comparison
    outcome: Outcome
    why: str

    @property
    def target_id(self) -> str:
        """The version that it asks to deploy."""
        return self.version_id if self.outcome == "better" else self.old_id

    @property
    def keeps_deployed(self) -> bool:
        """Whether it asks for no other deployed version: ending a canary does not."""
        return self.kind == "canary" and self.outcome != "better"


def judge_deployment(session: Session, rules: Rules) -> Judgement | None:
    """The deployed version, by the votes on its replies; None if there is nothing to judge.

    Only a version's first deployment is judged. Who deploys a version again, or rolls back to it, has seen
    what people thought of it. So no version is rolled back twice, and no rollback leads to another.
    """
    rows = session.exec(select(Deployment).order_by(col(Deployment.id))).all()
    if not rows or rows[-1].version_id in {row.version_id for row in rows[:-1]}:
        return None
    deployment = rows[-1]
    try:
        old = roll_back_target(session)
    except Conflict:
        return None
    since = deployment.started_at
    after = _ballots(session, deployment.version_id, col(Message.created_at) >= since, rules)
    before = _ballots(session, old.id, col(Vote.created_at) < since, rules, newest=True)
    version = get_version(session, deployment.version_id)
    return _judge("deployment", deployment.id, version, old, after, before, rules)


def judge_canary(session: Session, rules: Rules) -> Judgement | None:
    """The canary, by the votes on both sides since it began; None without one."""
    canary = open_canary(session)
    if canary is None:
        return None
    given, others = canary_sides(canary)
    tried, deployed = get_version(session, canary.version_id), get_version(session, canary.compared_with_id)
    return _judge(
        *("canary", canary.id, tried, deployed),
        *(_ballots(session, tried.id, given, rules), _ballots(session, deployed.id, others, rules)),
        rules,
    )


JUDGES: dict[str, Callable[[Session, Rules], Judgement | None]] = {
    "deployment": judge_deployment,
    "canary": judge_canary,
}


def act(session: Session, seen: Judgement, rules: Rules, *, tell: bool) -> ModelVersion | None:
    """Do what a judgement asks for, unless it does not hold any more; returns the version that is deployed.

    In one transaction with the audit, the version's reason and, with `tell`, the webhook's event. Of several
    servers that saw the same, one acts.
    """
    lock_versions(session)
    now = JUDGES[seen.kind](session, rules)
    if now is None or (now.subject_id, now.outcome) != (seen.subject_id, seen.outcome):
        return None
    event, said = ACTIONS[now.kind, now.outcome]
    canary = open_canary(session)
    if now.keeps_deployed and canary is not None:
        close_canary(session, canary, by=ACTOR, why=now.why)
        deployed = get_version(session, now.target_id)
    else:
        deployed = deploy_version(session, now.target_id, by=ACTOR, why=f"{said}: {now.why}")
    state = "ready" if now.outcome == "better" else "candidate"  # an admin may still deploy it
    set_state(session, now.version_id, state, f"{said}: {now.why}")
    figures = figures_of(now)
    audit.record(session, ACTOR, event, now.version, why=now.why, **figures)
    if tell:
        names = {"version": now.version, "compared_with": now.compared_with, "deployed": deployed.name}
        webhook_outbox.tell(session, event, names | {"why": now.why} | figures)
    return deployed


def figures_of(judgement: Judgement) -> dict[str, Any]:
    return {
        "up": judgement.new.up,
        "votes": judgement.new.votes,
        "up_compared": judgement.old.up,
        "votes_compared": judgement.old.votes,
        "people": judgement.people,
        "p_worse": judgement.comparison.p_worse,
        "evidence_worse": judgement.comparison.worse,
        "evidence_better": judgement.comparison.better,
    }


def _ballots(
    session: Session,
    version_id: str,
    condition: sa.ColumnElement[bool],
    rules: Rules,
    *,
    newest: bool = False,
) -> list[Ballot]:
    """The oldest or newest votes on a version's replies that meet the condition, in the order of casting."""
    order = (col(Vote.created_at), col(Vote.id))
    query = (
        select(Vote.user_id, Vote.label, Vote.share, Message.chat_id)
        .select_from(Message)
        .join(Vote)
        .join(Chat)
        .where(
            col(Message.model_version_id) == version_id,
            col(Message.state).in_(FINISHED),
            col(Vote.label).is_not(None),
            col(Vote.quarantined).is_(False),
            condition,
            *counts(),
        )
        .order_by(*(column.desc() for column in order) if newest else order)
        .limit(rules.most_votes)
    )
    found: list[Ballot] = []
    whole: set[tuple[str, str]] = set()
    for user_id, label, share, chat_id in session.exec(query):
        if share is None or (user_id, chat_id) not in whole:  # a vote on a whole chat is one, not one a reply
            found.append((user_id, bool(label)))
        if share is not None:
            whole.add((user_id, chat_id))
    return found[::-1] if newest else found


def _judge(
    kind: Literal["deployment", "canary"],
    subject_id: str,
    version: ModelVersion,
    old: ModelVersion,
    ballots: Sequence[Ballot],
    old_ballots: Sequence[Ballot],
    rules: Rules,
) -> Judgement:
    if not rules.one_person_may_decide:
        ballots, old_ballots = capped(ballots), capped(old_ballots)
    new_tally, old_tally = tally(ballots), tally(old_ballots)
    comparison = compare(new_tally, old_tally)
    outcome, hindrance = decide(ballots, old_ballots, rules)
    words = {
        "worse": f"{version.name} is liked less: evidence {_ratio(comparison.worse)}.",
        "better": f"{version.name} is liked more: evidence {_ratio(comparison.better)}.",
        "undecided": hindrance,
    }
    return Judgement(
        kind=kind,
        subject_id=subject_id,
        version_id=version.id,
        version=version.name,
        old_id=old.id,
        compared_with=old.name,
        new=new_tally,
        old=old_tally,
        people=len({person for person, _ in ballots}),
        comparison=comparison,
        outcome=outcome,
        why=f"{_shown(version.name, new_tally)}, {_shown(old.name, old_tally)}. {words[outcome]}",
    )


def decide(ballots: Sequence[Ballot], old_ballots: Sequence[Ballot], rules: Rules) -> tuple[Outcome, str]:
    """The outcome, and what is missing for one, in words."""
    new, old = tally(ballots), tally(old_ballots)
    needed = 1 / rules.error_rate
    found = compare(new, old)
    sign: Outcome = "worse" if found.worse >= found.better else "better"
    strongest = max(found.worse, found.better)
    if new.votes < rules.min_votes:
        return "undecided", f"It takes {rules.min_votes} votes on the newer one to decide."
    if strongest < needed:
        return "undecided", f"Undecided: the evidence is {_ratio(strongest)}, and {_ratio(needed)} decides."
    if not rules.one_person_may_decide:
        weakest = min(getattr(compare(*left), sign) for left in _without_each(ballots, old_ballots))
        if weakest < needed:
            return "undecided", (
                f"Undecided: without the votes of one person the evidence is {_ratio(weakest)}, and "
                f"{_ratio(needed)} decides."
            )
    return sign, ""


def capped(ballots: Sequence[Ballot]) -> list[Ballot]:
    """The first votes of each person: ten, or a fifth of all if that is more."""
    most = max(VOTES_OF_ONE, int(SHARE_OF_ONE * len(ballots)))
    taken: Counter[str] = Counter()
    kept = []
    for person, up in ballots:
        taken[person] += 1
        if taken[person] <= most:
            kept.append((person, up))
    return kept


def tally(ballots: Sequence[Ballot]) -> Tally:
    return Tally(sum(up for _, up in ballots), len(ballots))


def _without_each(new: Sequence[Ballot], old: Sequence[Ballot]) -> set[tuple[Tally, Tally]]:
    """The counts of both versions without each person in turn."""
    all_new, all_old = tally(new), tally(old)
    own: dict[str, list[list[Ballot]]] = {}
    for side, ballots in enumerate((new, old)):
        for person, up in ballots:
            own.setdefault(person, [[], []])[side].append((person, up))
    return {(_less(all_new, tally(on_new)), _less(all_old, tally(on_old))) for on_new, on_old in own.values()}


def _less(all_votes: Tally, some: Tally) -> Tally:
    return Tally(all_votes.up - some.up, all_votes.votes - some.votes)


def _shown(name: str, votes: Tally) -> str:
    if votes.share is None:
        return f"{name}: no votes"
    return f"{name}: {votes.up} of {votes.votes} liked ({100 * votes.share:.0f} %)"


def _ratio(evidence: float) -> str:
    """Such as 120 : 1, or 1 : 8."""
    if evidence >= 1:
        return f"{min(evidence, 1e6):,.0f} : 1"
    return f"1 : {min(1 / max(evidence, 1e-6), 1e6):,.0f}"
