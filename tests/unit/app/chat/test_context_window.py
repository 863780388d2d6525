"""Which turns of a long chat the model reads."""

from hypothesis import given
from hypothesis import strategies as st

from app.chat.context_window import FULL, KEPT, messages_left_out
from storage.db.tables import Message


def chat(*lengths: int, left_out: int = 0, opens_with_reply: bool = False) -> list[Message]:
    """A path of messages of these lengths that alternate and end with a question."""
    roles = ("user", "assistant")
    first = (len(lengths) + 1) % 2
    assert first == opens_with_reply
    path = [
        Message(chat_id="chat", role=roles[(first + place) % 2], content="x" * length)
        for place, length in enumerate(lengths)
    ]
    for message in path:
        if message.role == "assistant":
            message.messages_left_out = left_out
    return path


def cut(path: list[Message], context: int) -> tuple[int, float]:
    def share(left_out: int) -> float:
        return sum(len(message.content) for message in path[left_out:]) / context

    left_out = messages_left_out(path, share)
    return left_out, share(left_out)


def test_a_chat_that_fits_is_whole() -> None:
    assert cut(chat(25, 25, 25), 100) == (0, FULL)


def test_a_cut_leaves_half_of_the_context_free() -> None:
    path = chat(10, 10, 10, 10, 10, 10, 16)
    assert cut(path, 100) == (4, 0.36)
    assert cut(chat(10, 10, 10, 10, 10, 10, 20), 100) == (4, 0.4)


def test_what_was_left_out_stays_out() -> None:
    assert cut(chat(1, 1, 1, 1, 1, left_out=2), 100) == (2, 0.03)
    assert cut(chat(1, 1, 40, 40, 10, left_out=2), 100) == (4, 0.1)


def test_the_last_question_is_never_cut() -> None:
    assert cut(chat(10, 10, 500), 100) == (2, 5.0)
    assert cut(chat(500), 100) == (0, 5.0)
    assert cut(chat(50, 500, opens_with_reply=True), 100) == (1, 5.0)


def test_a_cut_of_a_very_long_chat_renders_few_prompts() -> None:
    path, asked = chat(*[1] * 4001), []

    def share(left_out: int) -> float:
        asked.append(left_out)
        return (len(path) - left_out) / 100

    assert messages_left_out(path, share) == 3952
    assert len(asked) < 15


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(20, 400))
def test_the_model_reads_from_a_question_on_and_no_more_is_cut_than_needed(
    lengths: list[int], context: int
) -> None:
    path = chat(*lengths, opens_with_reply=len(lengths) % 2 == 0)
    left_out, taken = cut(path, context)
    assert left_out < len(path)
    if left_out == 0:
        assert taken <= FULL or len([m for m in path if m.role == "user"]) == 1
        return
    assert path[left_out].role == "user"
    if left_out < len(path) - 1:
        assert taken <= KEPT
    earlier = max((place for place in range(left_out) if path[place].role == "user"), default=None)
    if earlier:
        assert sum(lengths[earlier:]) / context > KEPT
