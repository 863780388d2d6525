"""What of a long chat the model reads: the system prompt and the latest turns.

Pure but for the measure it is given. Knows no database and no tokenizer.
"""

from collections.abc import Callable, Sequence

from storage.db.tables import Message

# A prompt may take this share of the context; the rest is for the reply.
FULL = 0.75
# A cut leaves a prompt of this share, so that the next turns begin as this one does, and the backend's cache
# of that beginning stays of use; otherwise the beginning would move with every message.
KEPT = 0.5


def messages_left_out(path: Sequence[Message], share: Callable[[int], float]) -> int:
    """How many of the chat's first messages the model does not read when it replies to the last one.

    At least as many as at the reply before. Where the rest takes more than `FULL` of the context, it begins
    with a later question: the first with which it takes at most `KEPT`, or else the last. `share` says
    how much of the context the prompt takes without so many messages.
    """
    left_out = path[-2].messages_left_out if len(path) > 1 else 0
    if share(left_out) <= FULL:
        return left_out
    for place, message in enumerate(path):
        if place > left_out and message.role == "user":
            left_out = place
            if share(left_out) <= KEPT:
                break
    return left_out
