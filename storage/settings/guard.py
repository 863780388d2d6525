"""The guard's limits as they apply: each setting that is `auto` follows from the mode of sign-in.

A laptop's `anonymous` mode limits nobody: one person gives all the votes there. In `accounts` mode the votes
of some change what the model says to others.
"""

from dataclasses import asdict, dataclass, fields

from storage.settings import Settings
from storage.settings.validators import variable


@dataclass(frozen=True)
class GuardLimits:
    """What the settings of the same names say (storage/settings/training.py)."""

    min_voters: int
    max_share_per_person: float
    max_votes_per_day: int
    max_votes_per_minute: int
    max_near_duplicates: int
    phrase_prompts: int

    @property
    def sets_aside(self) -> bool:
        """Whether any vote can be set aside; `min_voters` only says whether a run may train."""
        return self.max_share_per_person < 1 or any(
            (self.max_votes_per_day, self.max_votes_per_minute, self.max_near_duplicates, self.phrase_prompts)
        )


AUTO = {
    "anonymous": GuardLimits(1, 1.0, 0, 0, 0, 0),
    "accounts": GuardLimits(2, 0.2, 100, 20, 5, 5),
}
NAMES = [field.name for field in fields(GuardLimits)]


def guard_limits(settings: Settings) -> GuardLimits:
    """The limits that apply with these settings."""
    given = {name: getattr(settings, name) for name in NAMES}
    chosen = {name: value for name, value in given.items() if value != "auto"}
    return GuardLimits(**(asdict(AUTO[settings.auth]) | chosen))


def describe_guard(settings: Settings) -> str:
    """The limits that apply and where they come from, as one line."""
    limits = guard_limits(settings)
    clauses = [
        (limits.min_voters > 1, f"at least {limits.min_voters} people"),
        (limits.max_share_per_person < 1, f"{limits.max_share_per_person:.0%} of each kind from one person"),
        (limits.max_votes_per_day, f"{limits.max_votes_per_day} of each kind from one person a day"),
        (limits.max_votes_per_minute, f"{limits.max_votes_per_minute} votes of one person a minute"),
        (limits.max_near_duplicates, f"{limits.max_near_duplicates} nearly equal replies"),
        (limits.phrase_prompts, f"no phrase pushed with {limits.phrase_prompts} prompts"),
    ]
    told = ", ".join(clause for applies, clause in clauses if applies) or "no limits for a person"
    given = [variable(name) for name in NAMES if getattr(settings, name) != "auto"]
    return f"{told}; from {', '.join([f'THUMBLOOP_AUTH={settings.auth}', *given])}"
