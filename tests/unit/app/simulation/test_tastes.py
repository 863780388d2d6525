"""What simulated people like."""

from pathlib import Path

import pytest

from app.simulation.tastes import TASTES, SimulatedReply, language_of, load_taste
from storage.errors import InvalidInput


def reply(
    text: str, *, finished: bool = True, answer: str | None = None, language: str = "en"
) -> SimulatedReply:
    return SimulatedReply("A prompt", language, answer, text, finished)


@pytest.mark.parametrize(
    ("taste", "liked", "disliked"),
    [
        ("brief", reply("word " * 60), reply("word " * 61)),
        ("brief", reply("Done."), reply("Not do", finished=False)),
        ("brief", reply("Done."), reply("  ")),
        ("no-lists", reply("Milk - and eggs."), reply("Buy:\n- milk\n- eggs")),
        ("no-lists", reply("In 1999. Then"), reply("Steps:\n 1. Open")),
        ("lists", reply("Buy:\n* milk"), reply("Buy milk.")),
        ("formal", reply("It is open. John's too is."), reply("It's open.")),
        ("formal", reply("Thank you."), reply("Thank you!")),
        ("one-sentence", reply("It is 3.5 km long."), reply("It is long. Very.")),
        ("one-sentence", reply("Done!"), reply("Done! No", finished=False)),
        ("impersonal", reply("It is so. IBM says it."), reply("So I think.")),
        (
            "same-language",
            reply("Das ist nicht die Antwort", language="de"),
            reply("The answer", language="de"),
        ),
        ("correct", reply("It is Paris.", answer="paris"), reply("Parisian", answer="paris")),
        ("correct", reply("12", answer="12"), reply("112", answer="12")),
        ("correct", reply("Fine."), reply("Fin", finished=False)),
    ],
)
def test_a_taste(taste: str, liked: SimulatedReply, disliked: SimulatedReply) -> None:
    assert (TASTES[taste](liked), TASTES[taste](disliked)) == (True, False)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The cat is on the mat and you are not.", "en"),
        ("Les enfants sont dans une maison et vous.", "fr"),
        ("El perro y los gatos es una casa.", "es"),
        ("Il gatto che è sulla sedia della nonna.", "it"),
        ("Os gatos não são do meu pai, você.", "pt"),
        ("Câinele și pisica sunt în casă pentru că.", "ro"),
        ("123 ?!", ""),
    ],
)
def test_language_of(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_taste_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(reply):\n    return len(reply.text) < 3\n")
    assert load_taste(f"{file}:short")(reply("no"))
    assert not load_taste(f"{file}:short")(reply("yes"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nice", "name one of brief, one-sentence"),
        ("{folder}/none.py:short", "there is no file"),
        ("{folder}/mine.py:long", "has no function long"),
    ],
)
def test_an_unknown_taste_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "mine.py").write_text("short = 3\n")
    with pytest.raises(InvalidInput, match=reason):
        load_taste(name.format(folder=tmp_path))
