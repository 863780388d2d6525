"""What a text shows by itself."""

import pytest

from trainer.gate.texts import is_in_another_language, is_refusal, language_of

ENGLISH = "What should I cook tonight with rice, eggs and spinach?"
GERMAN = "Man kann Reis mit Spinat und einem Ei in der Pfanne braten, das dauert zehn Minuten."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("Le train part de la gare à huit heures du matin.", "fr"),
        ("这座城市位于两条河流交汇的地方。每年春天，许多人来这里看樱花。", "zh"),
        ("Hi", None),
        ("144", None),
        ("", None),
        ("for i in range(3): print(i)", None),
    ],
)
def test_language(text: str, language: str | None) -> None:
    assert language_of(text) == language


def test_another_language_is_said_only_where_both_are_sure() -> None:
    assert is_in_another_language(ENGLISH, GERMAN)
    assert not is_in_another_language(ENGLISH, "You can fry the rice with spinach and an egg in a pan.")
    assert not is_in_another_language(ENGLISH, "42")
    assert not is_in_another_language("Hi", GERMAN)


@pytest.mark.parametrize(
    "reply",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot answer this question.",
        "I cannot provide medical advice.",
        "As an AI language model, I do not have feelings.",
        "Es tut mir leid, ich kann dir dabei nicht helfen.",
        "Je ne peux pas vous aider.",
        "Lo siento, no puedo ayudar con eso.",
        "抱歉，我无法回答这个问题。",
    ],
)
def test_a_refusal(reply: str) -> None:
    assert is_refusal(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Sorry for the delay! Here is the recipe.",
        "You can't put metal into a microwave.",
        "Ich kann dir drei Rezepte empfehlen.",
        "Write: 'I am sorry that the parcel was damaged.'",
        "Here is a story. " + "It was a long day. " * 20 + "I cannot help you, said the man.",
    ],
)
def test_no_refusal(reply: str) -> None:
    assert not is_refusal(reply)
