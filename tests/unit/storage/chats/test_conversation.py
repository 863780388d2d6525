"""The shape of conversations: the same whichever way they come, and the same if given again."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chats.conversation import ROLES, TOOLS, Turn, known_role, shaped
from storage.errors import InvalidInput

NAMED = {"s": "system", "u": "user", "a": "assistant"}
SHAPES = {
    "u:Hi": "u:Hi",
    "s: u:Hi": "u:Hi",
    "s:A s: s:B u:Hi": "s:A\n\nB u:Hi",
    "u:Hi a:Ho s:A u:So": "s:A u:Hi a:Ho u:So",
    "u:Hi s:A": "s:A u:Hi",
    "u:Hi u: u:there": "u:Hi\n\nthere",
    "u:Hi a:Ho a:Hum u:So": "u:Hi a:Ho\n\nHum u:So",
    "u:Hi s:A u:So": "s:A u:Hi\n\nSo",
    "a:Hello u:Hi": "a:Hello u:Hi",
    "s:A a:Hello u:Hi": "s:A a:Hello u:Hi",
    "u:A a: u:B": "u:A a: u:B",
}


def turns(written: str) -> list[Turn]:
    return [Turn(NAMED[one[0]], one[2:]) for one in written.split(" ")]


@pytest.mark.parametrize(("given", "found"), SHAPES.items(), ids=SHAPES)
def test_every_row_of_the_table(given: str, found: str) -> None:
    assert shaped(turns(given)) == turns(found)


@pytest.mark.parametrize(
    ("given", "there"),
    [("", "none but"), ("s:A", "none but"), ("a:Hello", "assistant"), ("u:Hi a:Ho", "user, ")],
)
def test_the_users_message_is_the_last(given: str, there: str) -> None:
    with pytest.raises(InvalidInput, match=f"must be the user's; there are {there}"):
        shaped(turns(given) if given else [])


ANY_TURN = st.builds(Turn, st.sampled_from([*NAMED.values()]), st.sampled_from(["", " ", "x", "y\n\n"]))


@given(st.lists(ANY_TURN))
def test_nothing_is_lost_and_the_shape_is_final(before: list[Turn]) -> None:
    given = [*before, Turn("user", "z")]
    found = shaped(given)
    assert shaped(found) == found
    roles = [turn.role for turn in found]
    assert roles.count("system") == (roles[0] == "system")
    assert all(one != following for one, following in pairwise(roles))
    for role in NAMED.values():  # each side says what it said, in the same order
        said, kept = ([turn.content for turn in side if turn.role == role] for side in (given, found))
        assert "\n\n".join(said).split() == "\n\n".join(kept).split()


def test_roles_by_other_names_and_those_of_tools() -> None:
    assert {known_role(name, "x") for name in ROLES} == {*NAMED.values()}
    assert known_role("developer", "x") == "system"
    for name in TOOLS:
        with pytest.raises(InvalidInput, match=f"^messages.1.role is '{name}', and tool messages are not"):
            known_role(name, "messages.1.role")
    for wrong in ("narrator", None, 7, ["user"]):
        with pytest.raises(InvalidInput, match="must be system, developer, user or assistant"):
            known_role(wrong, "messages.1.role")
