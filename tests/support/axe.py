"""axe-core, which finds what assistive technology cannot use. `axe.min.js` is its version 4.14 (MPL-2.0)."""

from pathlib import Path

from playwright.sync_api import Page

SCRIPT = Path(__file__).with_name("axe.min.js")
RUN = """async () => (await axe.run(document, {resultTypes: ['violations']})).violations.flatMap(
    ({id, nodes}) => nodes.map(({target, failureSummary}) => `${id} at ${target}: ${failureSummary}`))"""


def violations(page: Page) -> list[str]:
    """What breaks a rule on the page as it stands, of every level and of best practice."""
    page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    found: list[str] = page.evaluate(RUN)
    return found
