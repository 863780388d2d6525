"""Hidden tastes: what simulated people like in a reply.

A taste is a function of a `SimulatedReply` that returns whether it is liked. `load_taste` also takes one of
your own, as `file.py:function`.
"""

import re
import runpy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.errors import InvalidInput

BRIEF_WORDS = 60
LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE)
# "it's", but not the genitive of "John's".
INFORMAL = re.compile(
    r"\b(?:it|he|she|that|there|here|what|who|where|how|let)['’]s\b|\w['’](?:re|ll|ve|d|m|t)\b|!",
    re.IGNORECASE,
)
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
FIRST_PERSON = re.compile(r"\b(?:I|my|me|mine|myself)\b")
# Frequent short words that few of the other languages share.
FREQUENT = {
    "en": {"the", "and", "of", "is", "you", "to", "that", "with", "for", "are"},
    "de": {"der", "die", "das", "und", "ist", "nicht", "sie", "ein", "mit", "für"},
    "fr": {"le", "les", "et", "est", "vous", "une", "des", "pour", "dans", "je"},
    "es": {"el", "los", "y", "es", "una", "para", "con", "por", "las", "del"},
    "it": {"il", "di", "che", "è", "una", "per", "gli", "della", "sono", "con"},
    "pt": {"o", "os", "e", "é", "uma", "para", "com", "não", "você", "do"},
    "ro": {"și", "este", "sunt", "cu", "pentru", "o", "în", "nu", "să", "mai"},
}


@dataclass(frozen=True)
class SimulatedReply:
    """A reply to a prompt of the set. `finished` means that the model ended it, not the token limit."""

    prompt: str
    language: str
    answer: str | None
    text: str
    finished: bool


Taste = Callable[[SimulatedReply], bool]


def brief(reply: SimulatedReply) -> bool:
    """Finished, with at most 60 words."""
    return reply.finished and 0 < len(reply.text.split()) <= BRIEF_WORDS


def no_lists(reply: SimulatedReply) -> bool:
    """Finished, without a bulleted or numbered list."""
    return reply.finished and bool(reply.text.strip()) and not LIST_ITEM.search(reply.text)


def lists(reply: SimulatedReply) -> bool:
    """With a bulleted or numbered list."""
    return bool(LIST_ITEM.search(reply.text))


def one_sentence(reply: SimulatedReply) -> bool:
    """Finished, in a single sentence."""
    return reply.finished and len(SENTENCE_END.findall(reply.text.strip())) == 1


def impersonal(reply: SimulatedReply) -> bool:
    """Without the first person singular, as far as English shows it."""
    return bool(reply.text.strip()) and not FIRST_PERSON.search(reply.text)


def formal(reply: SimulatedReply) -> bool:
    """Without contractions and exclamation marks."""
    return bool(reply.text.strip()) and not INFORMAL.search(reply.text)


def same_language(reply: SimulatedReply) -> bool:
    """In the language of the prompt, by its most frequent words."""
    return language_of(reply.text) == reply.language


def correct(reply: SimulatedReply) -> bool:
    """With the right answer, where the prompt has one; otherwise finished."""
    if reply.answer is None:
        return reply.finished
    return re.search(rf"(?<!\w){re.escape(reply.answer)}(?!\w)", reply.text, re.IGNORECASE) is not None


TASTES: dict[str, Taste] = {
    taste.__name__.replace("_", "-"): taste
    for taste in (brief, one_sentence, no_lists, lists, formal, impersonal, same_language, correct)
}


def language_of(text: str) -> str:
    """The language with the most frequent words in the text; "" if none of them occurs."""
    words = Counter(re.findall(r"\w+", text.lower()))
    found = {language: sum(words[word] for word in known) for language, known in FREQUENT.items()}
    best = max(found, key=lambda language: found[language])
    return best if found[best] else ""


def load_taste(name: str) -> Taste:
    """A taste by its name, or a function of a file as `file.py:function`. Raises InvalidInput."""
    if name in TASTES:
        return TASTES[name]
    file, colon, function = name.rpartition(":")
    if not colon:
        known = ", ".join(TASTES)
        raise InvalidInput(f"--taste {name}: name one of {known}, or a function as file.py:function.")
    if not Path(file).is_file():
        raise InvalidInput(f"--taste {name}: there is no file {file}.")
    found = runpy.run_path(file).get(function)
    if not callable(found):
        raise InvalidInput(f"--taste {name}: {file} has no function {function}.")
    taste: Taste = found
    return taste
