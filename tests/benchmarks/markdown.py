"""What the chat page pays for each update of a streaming reply: `python -m tests.benchmarks.markdown`.

A reply of 2,000 characters comes in 500 tokens, and the page makes Markdown of the text so far after each.
"""

import time

from app.pages.chat.markdown import plain_markdown

WORDS = "A sentence of an ordinary reply goes on for a while, with **some** words. "
REPLIES = {
    "prose": WORDS * 40,
    "prose with a tag": "<think> " + WORDS * 40,
    "a page of HTML in a fence": "A page:\n\n```html\n" + "  <p class='x'>text</p>\n" * 100,
    "tags in lines and lists": (WORDS + "Use `<b>`.\n\n- item **bold**\n- item `<i>`\n\n") * 20,
}


def main() -> None:
    for name, reply in REPLIES.items():
        took = []
        for end in range(4, 2001, 4):
            begin = time.perf_counter()
            plain_markdown(reply[:end])
            took.append(1000 * (time.perf_counter() - begin))
        took.sort()
        print(f"{name:28} median {took[250]:5.2f} ms, p99 {took[495]:5.2f} ms, in all {sum(took):6.0f} ms")


if __name__ == "__main__":
    main()
