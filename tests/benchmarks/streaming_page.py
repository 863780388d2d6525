"""A reply of 50 tokens a second in a real browser: milliseconds from the model server's event to the screen.

The page draws ten times a second, so the newest word waits up to 100 ms for its update.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.benchmarks.report import print_report
from tests.support.chatting import FLAGS, chromium_path, send
from tests.support.live_server import LiveServer
from tests.support.scripted_models import Script
from tests.support.tiny_model import build_tiny_model

# Notes when each word that ends in a number was first drawn, in seconds since 1970.
WATCH = """() => {
  window.drawn = [];
  const look = () => {
    const text = document.querySelector('#tl-transcript .bot-row')?.innerText ?? '';
    const newest = Number(/w(\\d+)\\D*$/.exec(text)?.[1] ?? -1);
    const now = (performance.timeOrigin + performance.now()) / 1000;
    while (window.drawn.length <= newest) window.drawn.push(now);
    requestAnimationFrame(look);
  };
  look();
}"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--words", type=int, default=1500)
    arguments.add_argument("--per-second", type=float, default=50)
    given = arguments.parse_args()
    text = " ".join(f"w{number}" + "\n\n" * (number % 12 == 11) for number in range(given.words))
    script = Script({"theirs": lambda _body: text}, pace=1 / given.per_second)
    with tempfile.TemporaryDirectory(prefix="thumbloop-bench-") as folder, script.served() as address:
        settings = {
            "data_dir": Path(folder) / "data",
            "model": build_tiny_model(Path(folder) / "model"),
            "executor": "local",
            "max_new_tokens": 10 * given.words,
            "backend": "openai",
            "openai_base_url": address,
            "openai_model": "theirs",
        }
        with LiveServer(settings) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
            page = browser.new_page()
            page.goto(server.url)
            page.evaluate(WATCH)
            script.sent.clear()
            began = time.time()
            send(page, "Say much")
            page.locator("[data-message]").wait_for(timeout=1000 * (60 + 2 * given.words / given.per_second))
            drawn = page.evaluate("window.drawn")
            browser.close()
    late = sorted(1000 * (shown - sent) for shown, sent in zip(drawn, script.sent, strict=True))
    steps = sorted(1000 * (after - before) for before, after in itertools.pairwise(drawn) if after > before)
    print_report(
        "streaming_page",
        {
            "words": given.words,
            "per_second": given.per_second,
            "first_word_s": round(drawn[0] - began, 2),
            "late_ms": {
                name: round(late[int(len(late) * at)])
                for name, at in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            }
            | {"worst": round(late[-1])},
            "between_updates_ms": {"p50": round(steps[len(steps) // 2]), "worst": round(steps[-1])},
        },
    )


if __name__ == "__main__":
    main()
