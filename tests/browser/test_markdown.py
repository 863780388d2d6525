"""What a model writes, as the browser's own parser of Markdown shows it on the chat page."""

from playwright.sync_api import expect

from app.pages.chat.markdown import plain_markdown
from tests.support.chatting import OpenPage, assert_fits, send_and_wait, with_replies
from tests.support.live_server import LiveServer
from tests.support.replies import REPLIES_WITH_CODE

MATHS = r"$O(\log n)$ \(a^2<b\) $$\sum_i i$$ \[ \int\,dx \] for $5 or $6, not `$x$` or `\(y\)`"
NOTES = "Tides[^1] and `[^1]`, not [^2].\n\n    x = '[^1]'\n\n[^1]: By the *moon*.\n[^a]: <b>Seen</b>"
WIDE = " ".join(["word"] * 12)
TABLE = f"|Method|{WIDE}|Time|\n|:-|:-:|-:|\n|Sorting|{WIDE}|12|\n\n- [x] done"
REPLIES = [
    *REPLIES_WITH_CODE,
    MATHS,
    TABLE,
    NOTES,
    "![a](http://elsewhere/x.png) !![a](http://elsewhere/x.png) \\![a](http://elsewhere/x.png)",
    "!![a][b]\n\n[b]: http://elsewhere/x.png",
    "\\```mermaid\nA[<img src=http://elsewhere/x.png>]\n```",
    "$$`$$<img src=http://elsewhere/x.png> `$$ a<b $$",
    "[a](javascript:alert(1)) [b](java&#115;cript:x) [c](<data:x>) <javascript:x>\n\n[d]\n\n[d]: vbscript:x",
    "<think>so</think> <style>*{display:none}</style> <svg onload=alert(1)> <a href=http://elsewhere/ id=x>",
]
# Elements of a person's own making, attributes that run or load, and addresses that are no page.
MADE = """text => [...text.querySelectorAll("*")].flatMap(element => [
    ['IMG', 'SCRIPT', 'IFRAME', 'THINK', 'B', 'I'].includes(element.tagName) ? [element.outerHTML] : [],
    element.closest('.mermaid') ? ['a diagram'] : [],
    [...element.attributes].filter(({name, value}) =>
        name.startsWith('on') || name === 'src' || (name === 'href' && !/^(https?:|#|[^:]*$)/.test(value))
    ).map(({name, value}) => `${name}=${value}`),
].flat())"""
# In how many lines the cells of the first and the last column are.
LINES = """text => [...text.querySelectorAll(':is(th, td):not(:nth-child(2))')].map(cell => {
    const range = document.createRange();
    range.selectNodeContents(cell);
    return range.getClientRects().length;
})"""
CODES = "text => [...text.querySelectorAll('code')].map(code => code.textContent.replace(/\\n$/, ''))"


def test_no_reply_becomes_more_than_text_and_code_is_shown_as_written(
    chat_server: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(chat_server.url)
    send_and_wait(page, "Hello")
    with_replies(page, chat_server, REPLIES)
    page.reload()
    texts = page.locator(".bot-row span.md")
    expect(texts).to_have_count(1 + len(REPLIES))
    for text, written in zip(texts.all()[1:], REPLIES, strict=True):
        expect(text.locator("p, code, td").first).to_be_attached()
        assert text.evaluate(MADE) == [], f"{written!r} as {plain_markdown(written)!r}"
        if written in REPLIES_WITH_CODE:
            shown = [code for code in text.evaluate(CODES) if code]
            assert shown == REPLIES_WITH_CODE[written], plain_markdown(written)
    maths = texts.nth(1 + REPLIES.index(MATHS))
    formulas = [r"O(\log n)", "a^2<b", r"\sum_i i", r"\int\,dx"]
    expect(maths.locator(".katex annotation")).to_have_text(formulas)
    expect(maths.locator(".katex-display")).to_have_count(2)
    expect(maths).to_contain_text("for $5 or $6, not")
    assert maths.evaluate(CODES) == ["$x$", r"\(y\)"]

    notes = texts.nth(1 + REPLIES.index(NOTES))
    expect(notes.locator("sup")).to_have_text(["1", "1", "a"])
    assert notes.evaluate(CODES) == ["[^1]", "x = '[^1]'"]
    for text in ("not [^2]", "1 By the moon.", "a <b>Seen</b>"):
        expect(notes).to_contain_text(text)
    page.set_viewport_size({"width": 320, "height": 640})
    table = texts.nth(1 + REPLIES.index(TABLE))
    styles = table.evaluate(
        "text => [...text.querySelectorAll('th')].map(th => getComputedStyle(th).textAlign)"
    )
    assert styles == ["left", "center", "right"]
    assert table.evaluate(LINES) == [1, 1, 1, 1], "a word is broken"
    expect(table.get_by_role("checkbox")).to_have_css(
        "appearance", "auto"
    )  # Gradio's own tick is white on white
    assert_fits(page)
