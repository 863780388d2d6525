"""Finds phrases that a few people push by liking replies that have them, while replies of others hardly do.

Replies of one person to one prompt count as one, so generating again is no evidence. Pure.
"""

from collections.abc import Sequence
from math import lgamma

import numpy as np
from numpy.typing import NDArray

from trainer.dataset.phrases import Corpus, Numbers

Rates = NDArray[np.float64]

FEW = 3  # this many people or more can push a phrase together, and each person alone
SHARED = 3  # together: at least a third of the liked replies of each have it
ALONE = 2  # alone: at least half of the liked replies have it
OFTEN = 10  # times as often as in the replies of others
BY_CHANCE = 3  # times as many as chance would bring


def pushed_phrases(
    corpus: Corpus,
    people: Sequence[int],
    prompts: Sequence[int],
    liked: Sequence[bool],
    trusted: Sequence[bool],
    *,
    least: int,
) -> dict[int, str]:
    """For each liked text that has a pushed phrase, by its number in the corpus, the phrase.

    Each sequence has an item for every text; people and prompts are numbers from 0. Texts of `trusted`
    people are never found, and count as replies of others. A phrase is pushed by three or more people if it
    is in a third of what each of them likes and in replies to `least` different prompts. It is pushed by
    one person if it is in half of what they like and in replies to twice as many. Both have to be far above
    what the replies of others make likely.
    """
    keys, text_of = corpus.phrases(least)  # for each occurrence of a phrase
    if not len(keys):
        return {}
    person, prompt, is_liked = (np.asarray(one, np.int64) for one in (people, prompts, liked))
    # A document is what one person likes, or dislikes, of the replies to one prompt.
    document_keys = (person * (prompt.max() + 1) + prompt) * 2 + is_liked
    documents, document_of = np.unique(document_keys, return_inverse=True)
    document_of = document_of.ravel()
    prompt_of_document = documents // 2 % (prompt.max() + 1)
    person_of_document = documents // 2 // (prompt.max() + 1)
    document_is_liked = documents % 2 == 1
    n_people = int(person.max()) + 1
    doubted = ~np.isin(np.arange(n_people), person[np.asarray(trusted, bool)])
    documents_of_person = np.bincount(person_of_document, minlength=n_people)
    likes_of_person = np.bincount(person_of_document[document_is_liked], minlength=n_people)

    # A pair is a phrase with a document that has it.
    names, phrase_of, times = np.unique(keys, return_inverse=True, return_counts=True)
    often = times[phrase_of.ravel()] >= least
    pairs = np.unique(phrase_of.ravel()[often] * len(documents) + document_of[text_of[often]])
    phrase, document = pairs // len(documents), pairs % len(documents)
    # An entry is a phrase with a person: in how many of the person's documents it is, and in how many liked.
    entries, entry_of = np.unique(phrase * n_people + person_of_document[document], return_inverse=True)
    entry_of = entry_of.ravel()
    of_phrase, of_person = entries // n_people, entries % n_people
    found = np.bincount(entry_of)
    found_liked = np.bincount(entry_of, weights=document_is_liked[document]).astype(np.int64)
    everywhere = np.bincount(phrase, minlength=len(names))

    def summed(chosen: Numbers, values: Numbers) -> Numbers:
        return np.bincount(of_phrase[chosen], weights=values, minlength=len(names)).astype(np.int64)

    def likely(carried: Numbers, documents_of_carriers: Numbers, with_phrase: Numbers) -> Rates:
        """The rate of a phrase in the documents of others, with two standard errors on top; at most 1.

        Carriers are those who have the phrase, so the others have it less often than chance alone says.
        """
        seen = with_phrase - carried + 1
        rate: Rates = (seen + 2 * np.sqrt(seen)) / (len(documents) - documents_of_carriers + 2)
        return np.minimum(rate, 1.0)

    # Pushed together.
    carries = (found_liked > 0) & (SHARED * found_liked >= likes_of_person[of_person]) & doubted[of_person]
    carriers = np.flatnonzero(carries)
    people_of = summed(carriers, np.ones(len(carriers), np.int64))
    evidence = summed(carriers, found_liked[carriers])
    chance = likely(
        summed(carriers, found[carriers]),
        summed(carriers, documents_of_person[of_person[carriers]]),
        everywhere,
    )
    rate = evidence / np.maximum(1, summed(carriers, likes_of_person[of_person[carriers]]))
    candidates = np.flatnonzero((people_of >= FEW) & (evidence >= least) & (rate >= OFTEN * chance))
    expected = _expected(likes_of_person[doubted], chance[candidates])

    pushed: list[tuple[int, int, Numbers]] = []  # minus the number of prompts, phrase, people
    for one, by_chance in zip(candidates.tolist(), expected.tolist(), strict=True):
        begin, end = np.searchsorted(of_phrase[carriers], [one, one + 1])
        who = of_person[carriers[begin:end]]
        begin, end = np.searchsorted(phrase, [one, one + 1])
        within = document[begin:end]
        within = within[document_is_liked[within] & np.isin(person_of_document[within], who)]
        different = len(np.unique(prompt_of_document[within]))
        if different >= least + BY_CHANCE * by_chance:
            pushed.append((-different, one, who))
    # Pushed alone.
    chance = likely(found, documents_of_person[of_person], everywhere[of_phrase])
    often_enough = (found_liked >= 2 * least) & (ALONE * found_liked >= likes_of_person[of_person])
    alone = (
        often_enough
        & doubted[of_person]
        & (found_liked >= OFTEN * chance * np.maximum(1, likes_of_person[of_person]))
    )
    for entry in np.flatnonzero(alone).tolist():
        pushed.append((-int(found_liked[entry]), int(of_phrase[entry]), of_person[entry : entry + 1]))

    told: dict[int, str] = {}
    spelt = [(minus, corpus.spell(int(names[one])), one, who) for minus, one, who in pushed]
    order = np.argsort(keys, kind="stable")
    for _, words, one, who in sorted(spelt, key=lambda each: each[:2]):
        begin, end = np.searchsorted(keys, [names[one], names[one] + np.uint64(1)], sorter=order)
        for text in text_of[order[begin:end]].tolist():
            if is_liked[text] and person[text] in who:
                told.setdefault(text, words)
    return told


def _expected(likes: Numbers, chance: Rates) -> Rates:
    """How many documents carriers would have, if each liked reply had the phrase with this probability.

    An upper bound: n·p times at most the number of ways to have the others that make a person a carrier.
    """
    total: Rates = np.zeros(len(chance))
    for number, people in zip(*np.unique(likes[likes > 0], return_counts=True), strict=True):
        others, needed = int(number) - 1, -(-int(number) // SHARED) - 1
        ways = lgamma(others + 1) - lgamma(needed + 1) - lgamma(others - needed + 1)
        total += people * number * chance * np.exp(np.minimum(0.0, ways + needed * np.log(chance)))
    return total
