"""Places for replies: one person may take all of them, and keeps nobody else out."""

import pytest

from app.serving.admission import Places
from storage.errors import Busy


def test_who_has_none_gets_the_first_beyond_the_limit() -> None:
    places = Places(at_once=1, waiting=2)
    for _ in range(3):
        places.take("ada")
    with pytest.raises(Busy, match="3 replies"):
        places.take("ada")
    places.take("ben")
    with pytest.raises(Busy, match="4 replies"):
        places.take("ben")
    places.free("ada")
    with pytest.raises(Busy):
        places.take("ben")  # still as many as the limit
    places.free("ada")
    places.take("ben")


def test_newcomers_have_a_limit_too() -> None:
    places = Places(at_once=1, waiting=1)
    for person in ("ada", "ada", "ben", "eve"):
        places.take(person)
    with pytest.raises(Busy, match="4 replies"):
        places.take("joe")
    places.free("eve", 0.5)
    places.take("joe")


def test_who_left_comes_back_as_a_newcomer() -> None:
    places = Places(at_once=1, waiting=0)
    places.take("ada")
    places.take("ben")
    places.free("ben")
    places.take("ben")
