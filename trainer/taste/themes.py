"""Themes of what people dislike: TF-IDF and k-means, each theme named by its words."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session

from storage.review.voted_replies import VotedReply, VoteFilter, about, list_votes

FEWEST = 12  # texts below which there is nothing to group
TEXTS_A_THEME = 8
MOST_THEMES = 8
WORDS = 3
SEED = 0
MOST_READ = 2000  # votes


@dataclass(frozen=True)
class Theme:
    """The words that tell its texts from the others, and their places, the most typical first."""

    words: list[str]
    places: list[int]


def disliked_themes(session: Session) -> tuple[list[VotedReply], list[Theme]]:
    """The newest thumbs down that count, and their themes."""
    found = list_votes(session, VoteFilter(label=False, use="counts"), limit=MOST_READ).votes
    return found, find_themes([about(vote) for vote in found])


def find_themes(texts: Sequence[str]) -> list[Theme]:
    """At most MOST_THEMES, the largest first; none for few texts or for texts without common words."""
    if len(texts) < FEWEST:
        return []
    # Loading them takes a second, which only this needs.
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Words that are in most texts name nothing, and so do a word of one text, numbers, and "how" or "the".
    vectoriser = TfidfVectorizer(
        sublinear_tf=True,
        min_df=2,
        max_df=0.6,
        strip_accents="unicode",
        stop_words="english",
        token_pattern=r"\b[^\W\d]\w+\b",
    )
    try:
        weights = vectoriser.fit_transform(texts)
    except ValueError:  # no word is left
        return []
    known = vectoriser.get_feature_names_out()
    count = min(MOST_THEMES, len(texts) // TEXTS_A_THEME, len(known))
    clusters = KMeans(max(count, 1), n_init=4, random_state=SEED).fit(weights)
    distances = clusters.transform(weights)
    themes = []
    for number, centre in enumerate(clusters.cluster_centers_):
        words = [str(known[place]) for place in np.argsort(-centre)[:WORDS] if centre[place] > 0]
        places = np.flatnonzero(clusters.labels_ == number)
        if words and len(places):
            order = places[np.argsort(distances[places, number], kind="stable")]
            themes.append(Theme(words, [int(place) for place in order]))
    return sorted(themes, key=lambda theme: -len(theme.places))
