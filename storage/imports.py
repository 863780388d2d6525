"""Other people's feedback in: TRL's KTO rows, conversational or plain text, as JSON lines.

Each row becomes a chat of the user `import` with a vote on its last reply, so that imported and own
feedback are one thing from here on. A row that is there already (same prompt, completion and label)
is counted as a duplicate, so importing a file twice adds nothing.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    StrictBool,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)
from sqlmodel import Session, col, select

from storage.chats import TITLE_LENGTH, check_text
from storage.database import Database
from storage.errors import InvalidInput, TooLarge
from storage.tables import Chat, Message, User
from storage.users import find_user
from storage.votes import cast_vote

IMPORT_USER = "import"
LONGEST_LINE = 16 * 1024 * 1024


@dataclass
class ImportReport:
    """What became of the rows; `rejected` holds (line number from 1, reason)."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[tuple[int, str]] = field(default_factory=list)


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="ignore")
    role: StrictStr
    content: StrictStr


class KtoRow(BaseModel):
    """A row of TRL's unpaired preference format; other columns are ignored."""

    model_config = ConfigDict(extra="ignore")
    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    label: StrictBool

    @field_validator("prompt", mode="before")
    @classmethod
    def _plain_prompt(cls, value: Any) -> Any:
        return [{"role": "user", "content": value}] if isinstance(value, str) else value

    @field_validator("completion", mode="before")
    @classmethod
    def _plain_completion(cls, value: Any) -> Any:
        return [{"role": "assistant", "content": value}] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _roles_in_order(self) -> "KtoRow":
        turns = self.prompt[1:] if self.prompt and self.prompt[0].role == "system" else self.prompt
        expected = ["user", "assistant"] * (len(turns) // 2) + ["user"]
        if [turn.role for turn in turns] != expected:
            raise ValueError("the prompt must alternate user and assistant messages and end with the user's")
        if [turn.role for turn in self.completion] != ["assistant"]:
            raise ValueError("the completion must be one assistant message")
        if not self.completion[0].content:
            raise ValueError("the completion is empty")
        return self


def import_jsonl(
    database: Database, lines: Iterable[bytes], *, source_name: str, skip_bad: bool = False
) -> ImportReport:
    """Import JSON lines in one transaction.

    Raises InvalidInput that names the first bad line, and imports nothing, unless `skip_bad`.
    """
    report = ImportReport()
    with database.write() as session:
        owner = find_user(session, IMPORT_USER) or _import_user(session)
        for number, line in _numbered(lines):
            try:
                row = _parse(line)
            except InvalidInput as error:
                if not skip_bad:
                    raise InvalidInput(
                        f"{source_name}, line {number}: {error.message} Nothing was imported; mend the line "
                        f"or skip bad lines.",
                        code="bad_line",
                        field=f"line {number}",
                    ) from error
                report.rejected.append((number, error.message))
                continue
            if _store(session, owner, row):
                report.accepted += 1
            else:
                report.duplicates += 1
    return report


def _numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line


def _parse(line: bytes) -> KtoRow:
    if len(line) > LONGEST_LINE:
        raise TooLarge(f"The line has {len(line)} bytes; the most is {LONGEST_LINE}.")
    try:
        # A byte order mark at the start of a file is how some editors save UTF-8.
        row = KtoRow.model_validate(json.loads(line.decode("utf-8-sig")))
    except json.JSONDecodeError as error:
        raise InvalidInput(f"This is not JSON: {error.msg} at column {error.colno}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"This is not UTF-8 (byte {error.start}).") from error
    except RecursionError as error:
        raise InvalidInput("The JSON is nested too deeply.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "row"
        raise InvalidInput(f"{place}: {first['msg']}.", field=place) from error
    for message in (*row.prompt, *row.completion):
        check_text(message.content, message.role)
    return row


def _import_user(session: Session) -> User:
    user = User(name=IMPORT_USER, disabled=True)  # nobody can sign in as the import
    session.add(user)
    session.flush()
    return user


def _store(session: Session, owner: User, row: KtoRow) -> bool:
    prompt = [(m.role, m.content) for m in row.prompt]
    key = hashlib.sha256(json.dumps([prompt, row.completion[0].content, row.label]).encode()).hexdigest()
    if session.exec(select(Chat.id).where(col(Chat.import_key) == key)).first() is not None:
        return False
    system = row.prompt[0].content if row.prompt[0].role == "system" else ""
    turns = [m for m in (*row.prompt, *row.completion) if m.role != "system"]
    chat = Chat(
        owner_id=owner.id,
        system_prompt=system,
        title=" ".join(turns[0].content.split())[:TITLE_LENGTH],
        source="import",
        import_key=key,
    )
    session.add(chat)
    session.flush()
    parent: str | None = None
    for turn in turns:
        message = Message(chat_id=chat.id, parent_id=parent, role=turn.role, content=turn.content)
        session.add(message)
        session.flush()
        parent = message.id
    assert parent is not None
    cast_vote(session, user_id=owner.id, message_id=parent, label=row.label)
    return True
