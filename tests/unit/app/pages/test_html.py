"""Small parts of the pages' HTML."""

from app.pages.html import counted


def test_one_has_no_plural() -> None:
    assert [counted(number, "chat") for number in (0, 1, 2)] == ["0 chats", "1 chat", "2 chats"]
