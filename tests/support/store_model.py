"""What the feedback store should hold, in plain Python: the model that the property tests compare it with.

Written from the documentation and not from the code: a list of events, a chat's tree, and from these the
rows of a snapshot. Knows no SQL.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Said = tuple[bool | None, tuple[str, ...], str | None, str | None]  # label, tags, comment, correction
NOTHING: Said = (None, (), None, None)


@dataclass
class ModelChat:
    id: str
    owner: str
    system: str
    updated_at: datetime
    consent: bool = True
    deleted: bool = False


@dataclass
class ModelMessage:
    id: str
    chat: ModelChat
    parent: "ModelMessage | None"
    role: str
    content: str


@dataclass
class ModelEvent:
    message: ModelMessage
    user: str
    said: Said
    revision: int
    id: int = 0  # as the database numbered it
    erased: bool = False
    quarantined: bool = False


@dataclass
class StoreModel:
    people: list[str] = field(default_factory=list)
    erased_people: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    chats: list[ModelChat] = field(default_factory=list)
    messages: list[ModelMessage] = field(default_factory=list)
    events: list[ModelEvent] = field(default_factory=list)

    def open_chats(self) -> list[ModelChat]:
        return [chat for chat in self.chats if not chat.deleted]

    def replies(self) -> list[ModelMessage]:
        return [m for m in self.messages if m.role == "assistant" and not m.chat.deleted]

    def leaf(self, chat: ModelChat) -> ModelMessage | None:
        """The end of the branch that the newest child of each message leads to."""
        step = None
        while children := [m for m in self.messages if m.chat is chat and m.parent is step]:
            step = children[-1]
        return step

    def latest(self, message: ModelMessage) -> ModelEvent | None:
        """The last event of the only person who may vote on the reply."""
        return next((e for e in reversed(self.events) if e.message is message), None)

    def vote(self, message: ModelMessage, said: Said) -> None:
        """Cast, change or (NOTHING) clear; an event only where that changes something."""
        last = self.latest(message)
        if said != (last.said if last else NOTHING):
            revision = last.revision + 1 if last else 1
            self._append(ModelEvent(message, message.chat.owner, said, revision))

    def set_quarantine(self, person: str, quarantined: bool) -> None:
        """Each standing vote of the person gets one more event, in the order in which they first voted."""
        if quarantined == (person in self.quarantined):
            return
        (self.quarantined.add if quarantined else self.quarantined.discard)(person)
        voted = {event.message.id: event.message for event in self.events if event.user == person}
        for message in voted.values():
            last = self.latest(message)
            if last is not None and last.said[0] is not None:
                self._append(ModelEvent(message, person, last.said, last.revision + 1))

    def _append(self, event: ModelEvent) -> None:
        event.quarantined = event.user in self.quarantined
        self.events.append(event)

    def erase(self, chats: list[ModelChat]) -> None:
        for chat in chats:
            chat.deleted = True
            chat.system = ""
        for message in self.messages:
            if message.chat in chats:
                message.content = ""
        for event in self.events:
            if event.message.chat in chats:
                event.erased = event.erased or event.said[0] is not None
                event.said = NOTHING

    def counts(self) -> tuple[int, int]:
        labels = [
            event.said[0]
            for event in self._standing(len(self.events))
            if not (event.erased or event.quarantined or event.message.chat.deleted)
            and event.message.chat.consent
        ]
        return labels.count(True), labels.count(False)

    def rows(self, length: int, *, corrections: bool) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """The rows of the snapshot of the first `length` events, and what is left out, by reason."""
        rows: list[dict[str, Any]] = []
        left_out: Counter[str] = Counter()
        for event in self._standing(length):
            if event.quarantined:
                continue
            message, chat = event.message, event.message.chat
            label, tags, comment, correction = event.said
            texts: list[tuple[str, bool | None, str | None]] = [(message.content, label, correction)]
            if corrections and correction:
                texts.append((correction, True, None))
            for at, (text, rated, corrected) in enumerate(texts):
                if event.erased:
                    left_out["erased vote"] += 1
                elif chat.deleted:
                    left_out["deleted chat"] += 1
                elif not chat.consent:
                    left_out["no consent"] += 1
                elif not text:
                    left_out["empty reply"] += 1
                else:
                    rows.append(
                        {
                            "prompt": _prompt(message),
                            "completion": [{"role": "assistant", "content": text}],
                            "label": rated,
                            "message_id": message.id,
                            "tags": list(tags),
                            "comment": comment or "",
                            "correction": corrected or "",
                            "source": "correction" if at else "web",
                        }
                    )
        return rows, dict(sorted(left_out.items()))

    def _standing(self, length: int) -> Iterator[ModelEvent]:
        """The last event of each vote among the first `length`, unless the vote was taken back."""
        last = {event.message.id: event for event in self.events[:length]}
        return (
            e for e in self.events[:length] if last[e.message.id] is e and (e.erased or e.said[0] is not None)
        )


def _prompt(reply: ModelMessage) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    step = reply.parent
    while step is not None:
        messages.insert(0, {"role": step.role, "content": step.content})
        step = step.parent
    system = [{"role": "system", "content": reply.chat.system}] if reply.chat.system else []
    return system + messages
