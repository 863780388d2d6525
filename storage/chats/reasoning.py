"""Keeps what a model thought apart from what it replied. Pure.

Models write their reasoning before the reply, in tags such as `<think>…</think>` (`reasoning_tags.py`). A
chat template may have written the opening tag already, so that the text has the closing one alone; a reply
that was cut off has no closing tag. Open WebUI folds reasoning, as `<details type="reasoning">`. A tag in
quotes or in code is text.
"""

import html
import re
from collections.abc import Iterator
from typing import NamedTuple

from storage.chats.reasoning_tags import BEFORE, MARKS, OPENING, QUOTES, TAGS, THINK, Tag

PIECE, MOST_SECTIONS = 512, 100  # characters; longer texts and more sections would cost their square
_DETAILS = re.compile(r'<details\s+type="reasoning"[^>]*>')
_MARK = re.compile(f"{MARKS.pattern}|<details")
_SECTION = re.compile(r"^[ \t]*(<details\b[^>]*>|</details>)", re.MULTILINE)
_SECTION_END = "</details>"
_SUMMARY = re.compile(r"\s*<summary>.*?</summary>", re.DOTALL)


class Reasoning(str):
    """A piece of a streamed reply that is reasoning; any other piece is of the reply itself."""

    __slots__ = ()


class Parts(NamedTuple):
    reasoning: str
    reply: str


def written(reasoning: str, reply: str) -> str:
    """Both as a model writes them; `apart` gives them back."""
    return THINK.written(reasoning, reply) if reasoning else reply


def apart(text: str, *, opened: Tag | None = None) -> Parts:
    """The reasoning and the reply in a complete text; `opened`: the prompt has opened the reasoning by it.

    Without reasoning the reply is the text as it is. Otherwise there is no white space around the reasoning
    and before the reply, and the reasoning has no tags.
    """
    if opened is None and not _MARK.search(text):  # as most texts are; this is also for speed
        return Parts("", text)
    sections, text = _without_sections(text)
    splitter = Splitter(opened=opened or _closes_first(text))
    for at in range(0, len(text), PIECE):  # what is held back is copied for each tag
        for _ in splitter.add(text[at : at + PIECE]):
            pass
    for _ in splitter.flush():
        pass
    reasoning, reply = splitter.parts
    if sections:
        reasoning = "\n\n".join(part for part in (*sections, reasoning) if part)
        reply = reply.strip()
    if not reasoning and reply != text:  # an empty block: nothing shows any more that there was one
        return apart(reply)
    return Parts(reasoning, reply)


class Splitter:
    """Tells the pieces of a reply that arrives bit by bit: reasoning at its beginning, then the reply.

    Reasoning may have inner blocks. If one of them is never closed, the reply is what follows the last
    closing tag, and is passed on at the end.
    """

    def __init__(self, *, opened: Tag | None = None) -> None:
        self._tag = opened or THINK  # of the block, or of the last one
        self._depth = 0 if opened is None else 1
        self._found = opened is not None  # there is reasoning
        self._blank = True  # only white space so far in this block, or before the reply
        self._held = ""  # may become a tag
        self._prior = ""  # the character before it
        self._after: tuple[str, ...] = ()  # marks that may stand after the reply
        self._thought: list[str] = []
        self._said: list[str] = []
        self._since: list[str] | None = None  # reasoning since a closing tag that left another block open

    @property
    def parts(self) -> Parts:
        """The reasoning and the reply so far."""
        reasoning = "".join(self._thought)
        while (bare := THINK.pattern.sub("", reasoning)) != reasoning:
            reasoning = bare
        return Parts(reasoning.strip(), "".join(self._said))

    def say_the_rest(self) -> None:
        """All that follows is the reply: a server tells its reasoning by other means."""
        self._depth, self._blank, self._found = 0, False, True

    def add(self, text: str) -> Iterator[str]:
        """The pieces that more text completes."""
        self._held += text
        while self._held:
            if self._depth:
                found = self._next_tag()
                before = found.start() - len(self._prior) if found else None
                yield from self._think(self._certain() if before is None else self._held[:before])
                if found is None:
                    return
                self._held = self._held[len(found[0]) :]
                self._turn(found[0])
            elif self._blank:
                start = self._held.lstrip()
                closing = (self._tag.close, THINK.close) if self._found else ()
                marks = (*OPENING, *BEFORE, *closing)
                if mark := next((mark for mark in marks if start.startswith(mark)), ""):
                    self._held = start.removeprefix(mark)
                    self._begin(mark)
                elif any(mark.startswith(start) for mark in marks):
                    return
                else:
                    self._blank = False
                    self._held = start if self._found else self._held
                    if self._said:
                        yield self._say("\n\n")
            else:
                ends = [(at, mark) for mark in self._after if (at := self._held.find(mark)) >= 0]
                keep = max((overlap(self._held, mark) for mark in self._after), default=0)
                at, mark = min(ends, default=(len(self._held) - keep, ""))
                said, self._held = self._held[:at], self._held[at + len(mark) :]
                if said:
                    yield self._say(said)
                if not mark:
                    return
                self._blank, self._after = True, ()

    def flush(self) -> Iterator[str]:
        """What was held back, at the end."""
        held, self._held = self._held, ""
        if self._depth:
            yield from self._think(held)
            if self._since is not None:
                since = "".join(self._since)
                self._thought = ["".join(self._thought).removesuffix(since)]
                self._depth, self._blank, self._since = 0, True, None
                yield from self.add(since)
                yield from self.flush()
        elif held := held.lstrip() if self._found and self._blank else held:
            yield self._say(held)

    def _begin(self, mark: str) -> None:
        """Take in a mark that stands before the reply."""
        if mark in OPENING:
            self._turn(mark)
        elif mark in BEFORE:
            self._tag, self._found = BEFORE[mark], True
            self._after = self._tag.after
        # Otherwise the block was closed twice.

    def _next_tag(self) -> re.Match[str] | None:
        """The next whole tag that is not in quotes, in `_prior` and `_held` together."""
        text = self._prior + self._held
        tag = self._tag.pattern.search(text, len(self._prior))
        quoted = tag is not None and tag.start() > 0 and text[tag.start() - 1] in QUOTES
        if tag is not None and quoted and tag.end() == len(text):
            return None  # the next character tells whether it is in quotes
        return tag

    def _certain(self) -> str:
        """The part of `_held` that no tag can begin in."""
        tags = self._tag.open, self._tag.close
        keep = max(len(tag) if self._held.endswith(tag) else overlap(self._held, tag) for tag in tags)
        return self._held[: len(self._held) - keep]

    def _turn(self, mark: str) -> None:
        """Take a tag in: the depth it leads to."""
        if self._depth and mark == self._tag.close:
            self._depth -= 1
            self._since = [] if self._depth else None
            self._blank = not self._depth
        elif self._depth == 0:
            if self._thought:
                self._thought.append("\n\n")
            self._tag, self._depth, self._found, self._blank = OPENING[mark], 1, True, True
        elif not self._blank:  # otherwise the prompt or the model opened it twice
            self._depth += 1
        self._prior = ""

    def _think(self, text: str) -> Iterator[Reasoning]:
        self._held = self._held[len(text) :]
        self._prior = text[-1:] or self._prior
        text = text.lstrip() if self._blank else text
        if text:
            self._blank = False
            self._thought.append(text)
            if self._since is not None:
                self._since.append(text)
            yield Reasoning(text)

    def _say(self, text: str) -> str:
        self._said.append(text)
        return text


def overlap(text: str, mark: str) -> int:
    """Length of the longest suffix of `text` that is a prefix of `mark`."""
    longest = min(len(text), len(mark) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(mark[:n])), 0)


def _closes_first(text: str) -> Tag | None:
    """The tag whose first mark in the text closes it, outside code: the prompt had opened the reasoning."""
    if any(text.lstrip().startswith(mark) for mark in (*OPENING, *BEFORE)):
        return None
    firsts = [(found.start(), tag) for tag in TAGS if (found := tag.first.search(text)) is not None]
    closing = [(at, tag) for at, tag in firsts if text.startswith(tag.alone, at) and not _in_code(text, at)]
    return min(closing, key=lambda found: found[0])[1] if closing else None


def _in_code(text: str, at: int) -> bool:
    """Whether the place is in a block of code, or between backticks in its line."""
    line = text.rfind("\n", 0, at) + 1
    return text.count("```", 0, at) % 2 == 1 or (
        text.count("`", line, at) % 2 == 1 and "`" in text[at:].partition("\n")[0]
    )


def _without_sections(text: str) -> tuple[list[str], str]:
    """The reasoning in the text's folded sections, and the text without them."""
    found: list[str] = []
    kept: list[str] = []
    at = 0
    while len(found) < MOST_SECTIONS and (start := _DETAILS.search(text, at)) is not None:
        end, after = _end_of_section(text, start.end())
        inner = _SUMMARY.sub("", text[start.end() : end], count=1).strip()
        lines = inner.splitlines()
        if lines and all(line.startswith("&gt;") for line in lines if line.strip()):
            lines = html.unescape(inner).splitlines()
        if lines and all(line.startswith(">") for line in lines if line.strip()):
            inner = "\n".join(re.sub("^> ?", "", line) for line in lines).strip()
        found.append(inner)
        kept.append(text[at : start.start()])
        at = after
    return found, "".join([*kept, text[at:]])


def _end_of_section(text: str, at: int) -> tuple[int, int]:
    """Where the section that began before `at` ends, and where the text after it begins."""
    depth = 1
    for tag in _SECTION.finditer(text, at):
        depth += -1 if tag[1] == _SECTION_END else 1
        if not depth:
            return tag.start(), tag.end()
    end = text.find(_SECTION_END, at)
    return (end, end + len(_SECTION_END)) if end >= 0 else (len(text), len(text))
