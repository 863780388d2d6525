"""Every sequence is found whole on its passes, and nothing that is worth sharing runs twice."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.engine.prefix.passes import Pass, share_prefixes

sequences = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8)


@given(sequences, st.integers(1, 5))
def test_every_sequence_is_read_back_from_its_passes(given: list[list[int]], worth_sharing: int) -> None:
    found = share_prefixes(given, worth_sharing=worth_sharing)
    for ids, number in zip(given, found.of_sequence, strict=True):
        read = [
            one for owner, place in found.spans(number, 0, len(ids)) for one in found.passes[owner].ids[place]
        ]
        assert read == ids
    for number, one in enumerate(found.passes):
        assert one.ids
        if one.parent is not None:
            assert one.parent < number
            assert found.passes[one.parent].start < one.start <= found.passes[one.parent].end
            assert one.start >= worth_sharing


def test_turns_of_a_chat_ride_on_the_longest_and_siblings_branch() -> None:
    turns = [[1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert share_prefixes(turns, worth_sharing=1).passes == [Pass(0, [1, 2, 3, 4, 5])]
    siblings = share_prefixes([[1, 2, 3, 8], [1, 2, 3, 9, 9]], worth_sharing=3)
    assert siblings.passes == [Pass(0, [1, 2, 3, 9, 9]), Pass(3, [8], 0)]
    assert len(share_prefixes([[1, 2, 3, 8], [1, 2, 3, 9, 9]], worth_sharing=4).passes) == 2
    assert share_prefixes([[1, 2, 3, 8], [1, 2, 3, 9, 9]], worth_sharing=4).passes[1].parent is None
