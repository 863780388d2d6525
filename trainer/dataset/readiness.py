"""Checks whether there is enough feedback to train on. Pure; knows no database."""

from dataclasses import dataclass

from storage.settings import Settings
from trainer.text import counted


@dataclass(frozen=True)
class Readiness:
    """The answer, and a sentence that explains it to people."""

    ready: bool
    reason: str


def check_readiness(
    *, ups: int, downs: int, voters: int, trainable_rows: int, settings: Settings
) -> Readiness:
    """Check the vote counts against the settings.

    `voters` is the number of people who voted. `trainable_rows` is the number of rows left after the hold-out
    and after dropping conversations that do not fit.
    """
    votes = f"{counted(ups, 'thumb')} up and {counted(downs, 'thumb')} down"
    people = counted(voters, "person", "people")
    lacks = []
    least = settings.min_votes_per_class
    if ups < least or downs < least:
        wanted = f"{max(least - ups, 0)} more up and {max(least - downs, 0)} more down"
        lacks.append(
            f"{votes}, but a run needs at least {least} of each: collect {wanted}, "
            f"or lower THUMBLOOP_MIN_VOTES_PER_CLASS"
        )
    if voters < settings.min_voters:
        lacks.append(
            f"votes from {people}, but a run needs at least {settings.min_voters}: "
            f"ask more people to vote, or lower THUMBLOOP_MIN_VOTERS"
        )
    # KTO pairs each prompt with another row's reply, so one row alone cannot be trained on.
    if not lacks and trainable_rows < 2:
        lacks.append(
            f"{counted(trainable_rows, 'example')} to train on, but a run needs at least 2: {votes} are left "
            f"with that after the hold-out and without conversations longer than "
            f"{settings.max_length} tokens; collect more votes, or raise THUMBLOOP_MAX_LENGTH"
        )
    if lacks:
        return Readiness(False, f"Not enough feedback yet. There are {'; there are '.join(lacks)}.")
    return Readiness(True, f"Ready: {votes} from {people}, {counted(trainable_rows, 'example')} to train on.")
