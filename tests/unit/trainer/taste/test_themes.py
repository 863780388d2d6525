"""Themes of texts: groups with the words that name them."""

from trainer.taste.themes import FEWEST, MOST_THEMES, find_themes

RIVERS = [f"Which river flows through the city number {n}? The answer is too long." for n in range(20)]
SUMS = [f"What is {n} plus {n}? Wrong arithmetic sum." for n in range(10, 25)]


def test_texts_about_the_same_are_together_and_the_largest_theme_comes_first() -> None:
    texts = [text for pair in zip(RIVERS, SUMS, strict=False) for text in pair] + RIVERS[15:]
    themes = find_themes(texts)
    assert sum(len(theme.places) for theme in themes) == len(texts)
    assert [len(theme.places) for theme in themes] == sorted((len(t.places) for t in themes), reverse=True)
    for theme in themes:
        kinds = {"river" in texts[place] for place in theme.places}
        assert len(kinds) == 1, "a theme is about one thing"
    words = {word for theme in themes for word in theme.words}
    assert words & {"river", "city"}
    assert words & {"arithmetic", "sum", "plus"}
    assert not words & {"what", "is", "the"}, "these name nothing"


def test_few_texts_and_texts_without_a_common_word_have_no_themes() -> None:
    assert find_themes(RIVERS[: FEWEST - 1]) == []
    assert find_themes([f"word{n}" for n in range(40)]) == []
    assert find_themes(["" for _ in range(40)]) == []
    assert find_themes(["the same text"] * 40) == []


def test_themes_are_few_and_the_same_each_time() -> None:
    texts = [f"{topic} question {n}" for n in range(12) for topic in "abcdefghijklmnop"]
    texts = [text.replace(text[0], text[0] * 4, 1) for text in texts]
    assert len(find_themes(texts)) <= MOST_THEMES
    assert find_themes(texts) == find_themes(texts)
