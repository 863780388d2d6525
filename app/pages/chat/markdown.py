"""The Markdown of a reply, changed so that the page shows what the model wrote, and nothing else comes of it.

People judge what the model wrote, so the page's sanitizer must not remove any of it. An image of a foreign
server would reveal the reader to its owner, and a diagram is drawn from markup. So tags become text, images
become links, links to anything but pages become text, and a diagram is its source.

The page draws what stands between private characters as a formula. They are written around what a model meant
as one, so a price stays a price, and code stays code.

The browser has another parser of Markdown, so nothing here may depend on both agreeing: each character
that could begin one of these things is written as an entity. In code, an entity would be shown as such. So
code with such a character is written anew: as elements that hold entities or, outside of lists and quotes, as
a fence that every parser sees, after a blank line and longer than any row of backticks in it. All else stays.
"""

import bisect
import html
import re
from collections.abc import Iterator
from functools import cached_property

from markdown_it import MarkdownIt
from markdown_it.token import Token

# Finds code, within lines only where `inline` is called. No tags and images are left to be read. Links would
# cost the square of their number, and only one with a backtick in its address matters to code.
PARSER = MarkdownIt("commonmark").enable("table")
PARSER.disable(["inline", "html_block", "html_inline", "image", "link", "emphasis", "newline"])

# What Chatbot draws as a formula.
DELIMITERS: list[dict[str, str | bool]] = [
    {"left": "\ue000", "right": "\ue001", "display": True},
    {"left": "\ue002", "right": "\ue003", "display": False},
]


def _between(left: str, right: str, never: str) -> str:
    return rf"(?<!\\){left}(?>\\\\|(?!{never}|~~~|\n[ \t]*\n)[^`])+?{right}"


# A formula has no empty line, and nothing that begins code. Between single $ it has one line, no space at its
# ends, and no letter or digit around it, or prices and shell variables would be formulas.
FORMULA = re.compile(
    "|".join(
        [
            _between(r"(?<!\$)\$\$(?!\$)", r"\$\$", r"\$\$"),
            _between(r"\\\[", r"\\\]", r"\\\["),
            _between(r"\\\(", r"\\\)", r"\\\("),
            r"(?<![\\$\dA-Za-z])\$(?![\s$])(?:\\.|[^`$\\\n])*+(?<!\s)\$(?![$\dA-Za-z])",
        ]
    )
)

# A tag, an image and a diagram begin with these; an address in <> stays. Private characters serve as marks.
RISKY = r"<(?=[A-Za-z/!?])(?!https?://[^\s<>\"'`]*>)|!(?=\[)|(?<=```)m(?=ermaid)|[\ue000-\ue003\U000f0000-\U0010ffff]"
TARGET = r"\](?=[(:][\s>]*<?(?P<address>[^\s>)]{,300}))"  # of a link, or of a definition
SUSPECT = re.compile(f"{RISKY}|{TARGET}")
# A footnote, "[^1]: " where it stands and "[^1]" where it is referred to. Only labels that have one count.
NOTE = re.compile(r"\[\^(?P<label>\w{1,20})\](?P<stands>:[ \t]+)?")
NOTE_STANDS = re.compile(r"^ {0,3}\[\^(\w{1,20})\]:[ \t]", re.MULTILINE)
MARKED = re.compile(
    rf"(?P<maths>{FORMULA.pattern})|(?P<note>{NOTE.pattern})"
    # The browser's parser lets a definition run over several lines, and so over the beginning of a fence.
    # This is the bracket of each that is not closed in its line, or has more than an address behind it.
    r"|(?P<indent>^ {0,3})\[(?!(?:\\.|[^\[\]\\\n])*"
    r"(?:\[|\](?!:)|\]:[ \t]*[^<\s]\S*[ \t]*$(?!\n[ \t]*[\"'(])))"
    f"|{RISKY}|{TARGET}",
    re.MULTILINE,
)
HARMLESS = re.compile(f"{FORMULA.pattern}|{NOTE.pattern}")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
SAFE_SCHEMES = ("http", "https", "mailto")
FIRST_MARK = 0xF0000
MOST_MARKS = 0x20000
MARK = re.compile(r"(\\*)([\U000f0000-\U0010ffff])")
BACKTICKS = re.compile("`+")
FENCE = re.compile(r"[\s>*+\-\d.)]*```")
LANGUAGE = re.compile(r"[\w+#.-]*")


def plain_markdown(text: str) -> str:
    """Markdown in which, outside code, tags are text and images are links; code shows what it holds."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    suspects = SUSPECT.finditer(text)
    plain = not FORMULA.search(text) and not NOTE_STANDS.search(text)
    if plain and not any(m["address"] is None or _is_bad(m["address"]) for m in suspects):
        return text
    return _Marked(text).plain()


def _is_bad(address: str) -> bool:
    """Whether a link to this address could do more than open a page."""
    scheme = SCHEME.match(re.sub(r"[\x00-\x20\x7f\\]", "", html.unescape(address)))
    return scheme is not None and scheme[1].lower() not in SAFE_SCHEMES


class _Marked:
    """A reply with a mark for each formula and each character that must become an entity.

    A mark is a private character: text to the parser, as an entity is. So what is code to it stays code.
    """

    def __init__(self, text: str) -> None:
        self.originals: list[str] = []
        self.in_code: set[str] = set()
        self.notes = set(NOTE_STANDS.findall(text))
        self.text = MARKED.sub(self._mark, text)

    def _mark(self, match: re.Match[str]) -> str:
        if match["address"] is not None and not _is_bad(match["address"]):
            return match[0]
        if match["note"] and match["label"] not in self.notes:
            return match[0]
        indent = match["indent"] or ""
        original = match[0][len(indent) :]
        if len(self.originals) == MOST_MARKS:
            return indent + (original if match["maths"] else _entities(original).replace("m", "&#109;"))
        self.originals.append(original)
        return indent + chr(FIRST_MARK + len(self.originals) - 1)

    def plain(self) -> str:
        pieces = []
        position = 0
        for start, end, code in self._codes():
            pieces += [self._prose(self.text[position:start]), code]
            position = end
        return "".join([*pieces, self._prose(self.text[position:])])

    def _codes(self) -> Iterator[tuple[int, int, str]]:
        """Where code has such a character, and what to write instead."""
        lines = [0, *(match.end() for match in re.finditer("\n", self.text)), len(self.text)]
        references: dict[str, object] = {}
        if not any(sign in self.text for sign in ("`", "~~~", "    ", "\t")):
            return
        for token in PARSER.parse(self.text, references):
            if token.map is None or not MARK.search(token.content + token.info):
                continue
            start, end = lines[token.map[0]], lines[token.map[1]]
            if token.type == "inline":
                inside: list[Token] = []
                PARSER.inline.parse(token.content, PARSER, references, inside)
                for code in inside:
                    if code.type == "code_inline" and self._has_risk(code.content):
                        yield from self._in_line(code)
            elif not self._has_risk(token.content + token.info):
                continue
            elif token.level == 0:
                yield start, end, ("\n" if start else "") + self._fence(token)
            else:
                first_line = self.text[start:end].partition("\n")[0]
                prefix = _before_code(first_line, token)
                if prefix is not None:
                    elements = _entities(self._as_written(token.content))
                    yield start, end, f"{prefix}<pre><code>{elements}</code></pre>\n"

    def _in_line(self, code: Token) -> Iterator[tuple[int, int, str]]:
        """Nothing if its place is not found, and then it is prose.

        Nor if the line would begin a fence without its backticks.
        """
        marks = MARK.findall(code.content)
        first, last = self.text.index(marks[0][1]), self.text.index(marks[-1][1])
        length = len(code.markup)
        rows = self._backticks
        ends = range(bisect.bisect(rows, (last,)), len(rows))
        end = next((rows[at] for at in ends if rows[at][1] - rows[at][0] == length), None)
        if end is None:
            return
        for at in range(bisect.bisect(rows, (first,)) - 1, -1, -1):
            start, start_end = rows[at]
            # Of the backticks behind a backslash, the parser counts the first as text.
            if start_end - start - length not in (0, 1):
                continue
            if _bare(self.text[start_end : end[0]]) == _bare(code.content):
                if not FENCE.match(self.text[self.text.rfind("\n", 0, start) + 1 : start_end - length]):
                    elements = _entities(self._as_written(code.content))
                    yield start_end - length, end[1], f"<code>{elements}</code>"
                return

    @cached_property
    def _backticks(self) -> list[tuple[int, int]]:
        return [row.span() for row in BACKTICKS.finditer(self.text)]

    def _fence(self, token: Token) -> str:
        content = self._as_written(token.content)
        if content and not content.endswith("\n"):
            content += "\n"
        fence = "`" * max(3, 1 + max(map(len, BACKTICKS.findall(content)), default=0))
        language = self._as_written(token.info).strip().partition(" ")[0]
        if language.lower() == "mermaid":
            language = "text"
        elif not LANGUAGE.fullmatch(language):
            language = ""
        return f"{fence}{language}\n{content}{fence}\n"

    def _has_risk(self, code: str) -> bool:
        """Whether code holds more than formulas and footnotes, which are text in it."""
        marks = {mark for _, mark in MARK.findall(code)}
        self.in_code |= marks
        return any(not HARMLESS.fullmatch(self._original(mark)) for mark in marks)

    def _original(self, mark: str) -> str:
        return self.originals[ord(mark) - FIRST_MARK]

    def _as_written(self, text: str) -> str:
        return MARK.sub(lambda match: match[1] + self._original(match[2]), text)

    def _prose(self, text: str) -> str:
        return MARK.sub(self._entity, text)

    def _entity(self, match: re.Match[str]) -> str:
        slashes, original = match[1], self._original(match[2])
        if FORMULA.fullmatch(original):
            return slashes + (original if match[2] in self.in_code else _formula(original))
        if note := NOTE.fullmatch(original):
            raised = f"<sup>{note['label']}</sup>{' ' if note['stands'] else ''}"
            return slashes + (original if match[2] in self.in_code or len(slashes) % 2 else raised)
        if original in "<![]" and len(slashes) % 2:
            slashes = slashes[1:]  # it says that the character is text
        return slashes + ("&#109;" if original == "m" else _entities(original))


def _formula(written: str) -> str:
    """A formula between the page's delimiters in place of the model's."""
    size = 2 if written.startswith(("$$", "\\")) else 1
    around = DELIMITERS[0 if written.startswith(("$$", "\\[")) else 1]
    return f"{around['left']}{written[size:-size]}{around['right']}"


def _entities(text: str) -> str:
    """Text that no parser of Markdown or HTML sees more in."""
    return re.sub(r"[!-/:-@\[-`{-~\n\ue000-\ue003]", lambda match: f"&#{ord(match[0])};", text)


def _before_code(line: str, token: Token) -> str | None:
    """The marks of the lists and quotes that a block of code is in, from its first line."""
    if token.type == "fence":
        return line.partition(token.markup)[0]
    first = token.content.partition("\n")[0]
    if not line.endswith(first):
        return None
    before = line.removesuffix(first).expandtabs(4)
    return before[: max(len(before.rstrip(" ")), len(before) - 4)]


def _bare(text: str) -> str:
    """Without what lists, quotes and tables add in between."""
    return re.sub(r"[\s>\\]", "", text)
