"""Admission: one person may take the whole capacity, and keeps nobody else out."""

import pytest

from app.serving.admission import Admission
from storage.errors import Busy


def test_a_newcomers_first_reply_is_admitted_beyond_the_limit() -> None:
    admission = Admission(concurrent=1, waiting=2)
    for _ in range(3):
        admission.admit("ada", "v1")
    with pytest.raises(Busy, match="3 replies"):
        admission.admit("ada", "v1")
    admission.admit("ben", "v2")
    with pytest.raises(Busy, match="4 replies"):
        admission.admit("ben", "v2")
    assert (admission.admitted(), admission.admitted("v1"), admission.admitted("v2")) == (4, 3, 1)
    admission.release("ada", "v1")
    with pytest.raises(Busy):
        admission.admit("ben", "v2")  # still as many as the limit
    admission.release("ada", "v1")
    admission.admit("ben", "v2")


def test_newcomers_have_a_limit_too() -> None:
    admission = Admission(concurrent=1, waiting=1)
    for person in ("ada", "ada", "ben", "eve"):
        admission.admit(person, "v1")
    with pytest.raises(Busy, match="4 replies"):
        admission.admit("joe", "v1")
    admission.release("eve", "v1", 0.5)
    admission.admit("joe", "v1")


def test_a_person_without_replies_is_a_newcomer_again() -> None:
    admission = Admission(concurrent=1, waiting=0)
    admission.admit("ada", "v1")
    admission.admit("ben", "v1")
    admission.release("ben", "v1")
    admission.admit("ben", "v1")
