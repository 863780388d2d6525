"""Decides how much of a long chat the model reads: the system prompt and the latest turns."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from storage.db.tables import Message

# A prompt may take this share of the context; the rest is for the reply.
FULL = 0.75
# A cut shortens the prompt to this share. So the next prompts share its prefix and can use the backend's
# prefix cache; otherwise the prefix would change with every message.
KEPT = 0.5


def messages_left_out(path: Sequence[Message], share: Callable[[int], float]) -> int:
    """How many of the chat's first messages to leave out of the prompt for the last one.

    At least as many as for the previous reply. If the rest takes more than `FULL` of the context, it is cut
    to begin with the first question for which it takes at most `KEPT`, or else the last question.
    `share(n)` is the share of the context that the prompt takes without its first n messages.
    """
    left_out = path[-2].messages_left_out if len(path) > 1 else 0
    if share(left_out) <= FULL:
        return left_out
    later = [place for place, message in enumerate(path) if place > left_out and message.role == "user"]
    if not later:
        return left_out
    # `share` renders the prompt, and falls with each message left out: bisection calls it a few times only.
    fits = bisect_left(later, True, key=lambda place: share(place) <= KEPT)
    return later[min(fits, len(later) - 1)]
