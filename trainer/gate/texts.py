"""What a text shows by itself: its variety, its language, a refusal. Pure."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from trainer.dataset.repetition import ngrams

# Below it, short texts and code are taken for some rare language.
SURE_OF_LANGUAGE = 0.9
SAME = {"wuu": "zh", "yue": "zh"}  # written Chinese, which the identifier spreads over three codes
# How assistants refuse, in the languages of our prompts. A refusal comes first, not in the middle.
REFUSAL = re.compile(
    r"""\b(
      (i['’]?m|i\ am)\ (very\ |really\ |so\ )?sorry,?\ (but\ )?i\ (can['’]?t|cannot|can\ not)
    | i\ (can['’]?t|cannot|can\ not|won['’]?t|will\ not)\ (help|assist|answer|provide|comply|fulfill|support)
    | (i['’]?m|i\ am)\ (not\ able|unable)\ to
    | as\ an?\ (ai|artificial|language)
    | (ich\ kann|ich\ darf)\ .{0,40}\bnicht\ (helfen|beantworten|weiterhelfen)
    | (als\ ki\b|als\ sprachmodell)
    | je\ ne\ (peux|suis)\ pas\ (en\ mesure\ de\ )?(vous\ )?(aider|répondre|fournir)
    | (no\ puedo|lo\ siento,?\ (pero\ )?no\ puedo)\ (ayudar|responder|proporcionar)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
CHINESE_REFUSAL = re.compile(r"(抱歉|对不起).{0,12}(无法|不能)|作为(一个)?(人工智能|AI|语言模型)")
BEGINNING = 160  # characters in which a refusal is looked for


def distinct_pairs(texts: Sequence[Sequence[str]]) -> float:
    """The share of different 2-grams of words over all texts (Li et al. 2016, arXiv 1510.03055)."""
    pairs = [pair for words in texts for pair in ngrams(words, 2)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the text's language, None if that is not sure."""
    found: Counter[str] = Counter()
    for language, probability in _identifier().rank(text):
        found[SAME.get(language, language)] += probability
    ((likely, sure),) = found.most_common(1)
    return likely if sure >= SURE_OF_LANGUAGE else None


def is_in_another_language(prompt: str, reply: str) -> bool:
    """Whether a reply is surely in another language than the prompt."""
    asked, answered = language_of(prompt), language_of(reply)
    return asked is not None and answered is not None and asked != answered


def is_refusal(reply: str) -> bool:
    """Whether a reply begins as a refusal does, by its wording."""
    beginning = reply[:BEGINNING]
    return bool(REFUSAL.search(beginning) or CHINESE_REFUSAL.search(beginning))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
