"""What a judge is asked, and how its answer is read: never guessed."""

from pathlib import Path

import pytest

from storage.errors import InvalidInput
from trainer.judge.rubric import Rubric, read_rubric, read_winner
from trainer.judge.specs import parse_server

OVERALL = read_rubric("overall")
ASKED = [{"role": "user", "content": "Why {{ 7 * 7 }}?"}]


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ('{"reason": "Good.", "rating": 4}', 4),
        ('Let me think. {"rating": 2} no:\n```json\n{"reason": "Better.", "rating": 5}\n```', 5),
        ("It is fine. [[3]]", 3),
        ("Rating: 4/5", 4),
        ("**Score**: 2", 2),
        ('{"rating": "4"}', 4),
        ('{"rating": 4.5}', 4.5),
        ('{"rating": 6}', None),
        ('{"rating": true}', None),
        ("[[3]] or perhaps [[4]]", None),
        ("I would give it four.", None),
        ("", None),
    ],
)
def test_ratings(text: str, rating: float | None) -> None:
    found = OVERALL.read_rating(text)
    assert (found and found.value) == rating


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ('{"reason": "x", "winner": "A"}', "left"),
        ('{"winner": "b"}', "right"),
        ('{"winner": "tie"}', "tie"),
        ("[[C]]", "tie"),
        ("[[A]]", "left"),
        ("[[A]] no, [[B]]", None),
        ('{"winner": "both"}', None),
        ("A is better.", None),
    ],
)
def test_winners(text: str, winner: str | None) -> None:
    found = read_winner(text)
    assert (found and found.value) == winner


def test_questions_show_the_texts_as_they_are() -> None:
    question = OVERALL.rating_question(ASKED, "{% raise %} <b>", "Because.")
    assert "Why {{ 7 * 7 }}?" in question
    assert "{% raise %} <b>" in question
    assert "Because." in question
    assert "<reference>" not in OVERALL.rating_question(ASKED, "So.")
    pair = read_rubric("pair").pair_question(ASKED, "one", "two")
    assert pair.index("one\n</reply_A>") < pair.index("two\n</reply_B>")


def test_a_rubric_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text('{% set scale = [0, 10] %}{% set pattern = "Grade (\\\\d+)" %}Grade this: {{ reply }}')
    rubric = read_rubric(str(file))
    assert rubric.rating_question(ASKED, "So.") == "Grade this: So."
    found = rubric.read_rating("Grade 7, I think.")
    assert found is not None
    assert (found.value, found.reason) == (7, "Grade 7, I think.")
    assert rubric.rating_schema()["properties"]["rating"] == {"type": "integer", "minimum": 0, "maximum": 10}


@pytest.mark.parametrize(
    "text",
    [
        "{{ reply",
        "{{ unknown }}",
        "{% set scale = [5, 1] %}",
        "{% set scale = 5 %}",
        "{% set pattern = '(' %}",
        "{% set pattern = 'x' %}",
        "{{ reply.__class__.__mro__ }}",
    ],
)
def test_rubrics_that_cannot_be_used(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"The rubric mine(, line \d,)? cannot be used: .*[^.]\.$"):
        Rubric.parse("mine", text)


def test_a_rubric_that_is_not_there() -> None:
    with pytest.raises(InvalidInput, match="neither one of overall, pair"):
        read_rubric("nowhere.jinja")


def test_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    found = parse_server(
        "mini=https://host.example/v1/,$MY_KEY,some/model,temperature=0.5,at_once=2,price=1/2"
    )
    assert (found.name, found.url, found.key, found.model) == (
        "mini",
        "https://host.example/v1",
        "s3cret",
        "some/model",
    )
    assert (found.temperature, found.at_once, found.price) == (0.5, 2, (1.0, 2.0))
    assert "s3cret" not in str(found.identity)
    assert parse_server("m=http://h/v1,m").key == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mini", "write NAME=URL"),
        ("mini=host.example,m", "write NAME=URL"),
        ("mini=http://h/v1", "write NAME=URL"),
        ("two words=http://h/v1,m", "write NAME=URL"),
        ("mini=http://h/v1,$NO_SUCH_KEY,m", "NO_SUCH_KEY is not set"),
        ("mini=http://h/v1,m,heat=1", "'heat' is not one of"),
        ("mini=http://h/v1,m,at_once=0", "'at_once=0' is not a number"),
        ("mini=http://h/v1,m,price=1", "is not price=IN/OUT"),
    ],
)
def test_servers_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_server(text)
