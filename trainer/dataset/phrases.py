"""The words of replies as numbers: their phrases of three words, and which replies are nearly the same.

numpy over all replies at once, so that a hundred thousand of them take seconds.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Keys = NDArray[np.uint64]

PHRASE = 3
# Letters, digits and underscores make a word. Chinese and Japanese have no spaces between words, so
# there, and in Korean, each character is one.
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+")
WORD_BITS = 21  # three words fit into 63 bits
HASHES, BANDS = 16, 4
ALIKE = 12  # of the hashes: three quarters of all phrases are the same
FEWEST_WORDS = 8  # in shorter replies the same words say nothing
AT_ONCE = 1 << 20  # words, which bounds the memory


def words(text: str) -> list[str]:
    return WORD.findall(text.casefold())


class Corpus:
    """Texts as numbers of words. Equal texts give equal numbers, in whatever order the texts come."""

    def __init__(self, texts: Sequence[str]) -> None:
        numbers: defaultdict[str, int] = defaultdict()
        numbers.default_factory = numbers.__len__  # a new word gets the next number
        found = [np.array([*map(numbers.__getitem__, words(text))], np.int64) for text in texts]
        order = {word: place for place, word in enumerate(sorted(numbers), 1)}
        by_number = np.fromiter((order[word] for word in numbers), np.int64, len(numbers))
        self.vocabulary = sorted(numbers)
        self.lengths = np.array([len(one) for one in found], np.int64)
        together = np.concatenate(found) if found else np.empty(0, np.int64)
        self.words: Numbers = by_number[together] if len(together) else together
        self.text_of = np.repeat(np.arange(len(texts)), self.lengths)

    def phrases(self, least: int) -> tuple[Keys, Numbers]:
        """Each phrase that occurs `least` times or more, and the text that has it; a few rarer ones too.

        A phrase is named by a number; `spell` gives its words. A text's phrases can repeat.
        """
        often = np.bincount(self.words, minlength=len(self.vocabulary) + 1)
        often[0] = 0
        needed = least
        while np.count_nonzero(often >= needed) >> WORD_BITS:
            needed *= 2
        common = often >= needed
        renamed = np.where(common, np.cumsum(common), 0)
        self._spelt = np.flatnonzero(common)
        return self._triples(renamed.astype(np.uint64)[self.words], least)

    def spell(self, key: int) -> str:
        """The words of a phrase of the last call of `phrases`."""
        places = [(key >> (WORD_BITS * step)) & ((1 << WORD_BITS) - 1) for step in (2, 1, 0)]
        return " ".join(self.vocabulary[self._spelt[place - 1] - 1] for place in places)

    def _triples(self, numbers: Keys, least: int) -> tuple[Keys, Numbers]:
        if len(numbers) < PHRASE:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        first, second, third = numbers[:-2], numbers[1:-1], numbers[2:]
        whole = (self.text_of[:-2] == self.text_of[2:]) & (first > 0) & (second > 0) & (third > 0)
        bits = np.uint64(WORD_BITS)
        keys = ((((first << bits) | second) << bits) | third)[whole]
        # Most phrases are rare. Those whose bucket is rare go before anything is sorted.
        buckets = min(24, len(keys).bit_length() + 1)
        bucket = (_mixed(keys) >> np.uint64(64 - buckets)).astype(np.int64)
        often = np.bincount(bucket, minlength=1 << buckets)[bucket] >= least
        return keys[often], self.text_of[:-2][whole][often]

    def near_duplicates(self, kinds: Sequence[bool]) -> Iterator[list[int]]:
        """Groups of texts of one kind that are nearly the same, each in the order of the texts.

        MinHash: two texts share each of 16 hashes with the probability that is the share of their phrases
        which both have. Texts that share a band of four of them are compared, and grouped if they share 12.
        Texts of fewer than eight words are in no group.
        """
        signatures = self._signatures()
        long = np.flatnonzero(self.lengths >= FEWEST_WORDS)
        of_kind = np.asarray(kinds, np.uint64)
        leaders = list(range(len(self.lengths)))

        def leader(text: int) -> int:
            while leaders[text] != text:
                leaders[text] = text = leaders[leaders[text]]
            return text

        width = HASHES // BANDS
        for start in range(0, HASHES, width):
            band = of_kind[long]
            for number in range(start, start + width):
                band = _mixed(band + signatures[long, number])
            order = np.argsort(band, kind="stable")
            begins = np.flatnonzero(np.diff(band[order])) + 1
            sizes = np.diff(begins, prepend=0, append=len(order))
            for end, size in zip(np.cumsum(sizes)[sizes > 1], sizes[sizes > 1], strict=True):
                bucket = long[order[end - size : end]]
                same = (signatures[bucket] == signatures[bucket[0]]).sum(axis=1) >= ALIKE
                for text in bucket[same][1:]:
                    one, other = sorted((leader(int(bucket[0])), leader(int(text))))
                    leaders[other] = one
        groups: dict[int, list[int]] = {}
        for text in long.tolist():
            groups.setdefault(leader(text), []).append(text)
        return (group for group in groups.values() if len(group) > 1)

    def _signatures(self) -> Keys:
        """The least of each of 16 hashes over a text's phrases."""
        draw = np.random.default_rng(0)
        odd = draw.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        found = np.full((len(self.lengths), HASHES), np.iinfo(np.uint64).max, np.uint64)
        mixed = _mixed(self.words.astype(np.uint64))
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        text = 0
        while text < len(self.lengths):
            end = max(text + 1, int(np.searchsorted(starts, starts[text] + AT_ONCE, "right")) - 1)
            here = slice(starts[text], starts[end])
            of_text = self.text_of[here]
            inside = np.flatnonzero(of_text[:-2] == of_text[2:]) if len(of_text) > 2 else np.empty(0, int)
            if len(inside):
                some = mixed[here]
                keys = _mixed(some[inside] + _mixed(some[inside + 1] + _mixed(some[inside + 2])))
                owner = of_text[inside]
                begins = np.flatnonzero(np.diff(owner, prepend=-1))
                for number in range(HASHES):
                    hashed = (keys * odd[number]) >> np.uint64(11)
                    found[owner[begins], number] = np.minimum.reduceat(hashed, begins)
            text = end
        return found


def _mixed(numbers: Keys) -> Keys:
    """The numbers, scattered over 64 bits (splitmix64)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
