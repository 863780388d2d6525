"""What the chat page makes of the Markdown of replies: nothing vanishes, nothing becomes an element."""

import html
import re
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.pages.chat.markdown import plain_markdown
from tests.support.replies import REPLIES_WITH_CODE

BROWSER = MarkdownIt("commonmark").enable("table")  # with tags, images and links to anything
BROWSER.validateLink = lambda _: True  # type: ignore[method-assign]
FORMULA = re.compile("\ue000[\\s\\S]+?\ue001|\ue002[\\s\\S]+?\ue003")
PIECES = (
    *(
        "<img src=x>",
        "<b>",
        "</div>",
        "<div\n",
        "<!--",
        "-->",
        "<script>",
        "<https://a.b/>",
        "<javascript:x>",
    ),
    *(
        "![a](http://e/x.png)",
        "![",
        "[",
        "]",
        "(",
        ")",
        "](javascript:x)",
        "]: data:x",
        ']: x "',
        "https://a.b/",
    ),
    *(
        "`",
        "``",
        "```",
        "~~~",
        "~~~~",
        "```mermaid\n",
        "html",
        "\\",
        "$$",
        "$",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "\ue000",
        "*",
        "_",
        "|",
        "\n|-|-|\n",
        '"',
    ),
    *(
        "\n",
        "\n",
        "\n\n",
        "\n    ",
        "\n> ",
        "\n- ",
        "\n1. ",
        "\n  ",
        "\t",
        " ",
        "\n# ",
        "---",
        "\n===\n",
        "a",
    ),
    *("&lt;", "&#96;", "\U000f0000", "\ufeff", "'", '"', "b c", "https://a.b/"),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=25).map("".join)


def tokens(parsed: Iterable[Token]) -> Iterator[Token]:
    for token in parsed:
        yield token
        yield from tokens(token.children or [])


def codes(markdown: str, parser: MarkdownIt = BROWSER) -> list[str]:
    """What is shown as code, whether its source is Markdown or an element."""
    found = re.findall(r"<code[^>]*>(.*?)</code>", parser.render(markdown), re.DOTALL)
    return [html.unescape(code).removesuffix("\n") for code in found]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("a < b and 3 <4", "a < b and 3 <4"),
        ("<think>so</think>", "&#60;think>so&#60;/think>"),
        ("<!-- aside -->", "&#60;!-- aside -->"),
        (r"\<b> \\<b>", r"&#60;b> \\&#60;b>"),
        ("![a](http://elsewhere/x.png)", "&#33;[a](http://elsewhere/x.png)"),
        ("!![a](b) !!![a]", "!&#33;[a](b) !!&#33;[a]"),
        ("[a](javascript:x) [b](http://x)", "[a&#93;(javascript:x) [b](http://x)"),
        ("[a]( \n> <java&#115;cript&colon;x>)", "[a&#93;( \n> &#60;java&#115;cript&colon;x>)"),
        ("[a]\n\n[a]: data:x", "[a]\n\n[a&#93;: data:x"),
        ("<https://a.b/c> <javascript:x>", "<https://a.b/c> &#60;javascript:x>"),
        ("\\```mermaid\nA", "\\```&#109;ermaid\nA"),
        ("one ` alone\n\n<p> and ` again", "one ` alone\n\n&#60;p> and ` again"),
        ("$$`$$<img src=x> `", "$$<code>&#36;&#36;&#60;img src&#61;x&#62; </code>"),
        ("\ue000<b>\ue001", "&#57344;&#60;b>&#57345;"),
    ],
)
def test_tags_pictures_and_diagrams_of_a_model_are_text(written: str, shown: str) -> None:
    assert plain_markdown(written) == shown


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (r"<b> $O(\log n)$, $$a<b![c]$$", r"&#60;b> {O(\log n)}, [a<b![c]]"),
        (r"\(a^2\) and \[ \int\,dx \]", r"{a^2} and [ \int\,dx ]"),
        ("设$x$为, ($y$) *$z$* $-1$.", "设{x}为, ({y}) *{z}* {-1}."),
        (r"$\$5$ $$\text{$x$}$$", r"{\$5} [\text{$x$}]"),
        ("- so\n\n  $$\n  - b\n  $$", "- so\n\n  [\n  - b\n  ]"),
        ("|a|\n|-|\n|$\\|x\\|$|", "|a|\n|-|\n|{\\|x\\|}|"),
        ("`<b>` `$x$` $y$ `$z$`", "<code>&#60;b&#62;</code> `$x$` {y} `$z$`"),
        ("```\n$$x$$\n```\n$y$\n\n    $z$", "```\n$$x$$\n```\n{y}\n\n    $z$"),
        ("```\n<b> $x$ \\(y\\)\n```", "```\n<b> $x$ \\(y\\)\n```\n"),
    ],
)
def test_formulas_outside_of_code_get_the_pages_delimiters(written: str, shown: str) -> None:
    names = str.maketrans({"\ue000": "[", "\ue001": "]", "\ue002": "{", "\ue003": "}"})
    assert plain_markdown(written).translate(names) == shown


@pytest.mark.parametrize(
    "written",
    [
        "It costs $5 and $6, or $7-$8, US$9 and **$10**; save $5! Only $10 (was $15).",
        "$HOME/bin:$PATH, a$b$c, \\$x\\$, $ x $, $x\ny$, \\\\(x\\\\), $$a\n\nb$$, `$a` or `$b`",
        "\\(x `a\\)` and \\[ y\n~~~\n\\]\n~~~\n$5",
        "plain *text* with `code`, [a link](http://x) and x<1",
        "- a\n  ```python\n  x = d[1]: int  # [a](b)\n  ```\n\n| a |\n|---|\n| `b` |\n\n[1]: https://x 'y'",
        "    mermaid\n\n```python\nmermaid\n```",
    ],
)
def test_what_is_only_text_stays_as_it_is(written: str) -> None:
    assert plain_markdown(written) == written


@pytest.mark.parametrize("written", REPLIES_WITH_CODE)
def test_code_is_shown_as_the_model_wrote_it(written: str) -> None:
    assert codes(plain_markdown(written)) == REPLIES_WITH_CODE[written]


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_no_text_becomes_an_image_or_an_element_or_a_dangerous_link(text: str) -> None:
    shown = FORMULA.sub("%%%", plain_markdown(text))
    for token in tokens(BROWSER.parse(shown)):
        assert token.type != "image", shown
        if token.type in ("html_inline", "html_block"):
            assert re.fullmatch(r"</?code>|\s*<pre><code>[^<\n]*</code></pre>\s*", token.content), shown
        if token.type == "link_open":
            address = str(token.attrs["href"]).lower()
            assert not address.startswith(("javascript:", "vbscript:", "data:", "file:")), shown


@settings(deadline=None, max_examples=300)
@given(TEXTS)
def test_all_code_stays(text: str) -> None:
    """But for links, which the page's parser takes for other things than markdown-it."""
    text = re.sub(r"\[|<https|\r", "", text)
    plain = MarkdownIt("commonmark").enable("table").disable(["html_block", "html_inline", "image"])
    assert codes(plain_markdown(text)) == codes(text, plain)


def test_tags_in_raw_code_stand_only_in_fences_that_no_parser_overlooks() -> None:
    """The page's parser may read what is before the fence as something else, but not over a blank line."""
    for written in REPLIES_WITH_CODE:
        shown = FORMULA.sub("%%%", plain_markdown(written))
        without = re.sub(r"(?:\A|(?<=\n\n))(`{3,})\w*\n(?:(?!\1).)*\n\1(?=\n|\Z)", "", shown, flags=re.DOTALL)
        assert not re.search(r"<(?!/?(?:pre|code)>)[a-z!/]|!\[|```mermaid", without), shown
