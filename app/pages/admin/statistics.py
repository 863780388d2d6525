"""The statistics of the admin page as HTML: approval and vote rate per version, tags, signals, days.

Pure functions without database or Gradio. They escape all text from people and models.
"""

from collections.abc import Sequence
from html import escape

from app.api.schemas import ApprovalOut
from app.api.v1.canary import CanaryOut
from app.api.v1.stats import DayOut, Statistics
from app.pages.admin.overview import table

HEIGHT, BAR, GAP = 60, 9, 3  # of the chart, in SVG units
NOTE = (
    "Approval is the share of thumbs up among the votes on a version's replies, with the 95 % interval that "
    "so many votes allow. The vote rate says how few people that is."
)


def statistics_panel(statistics: Statistics) -> str:
    tags = [(escape(tag), str(votes.up), str(votes.down)) for tag, votes in statistics.tags.items()]
    signals = [(escape(kind), str(count)) for kind, count in statistics.signals.items()]
    canary = _canary(statistics.canary) if statistics.canary is not None else ""
    return (
        f"{canary}{_chart(statistics.days)}"
        + table(
            "Approval per version",
            ("Version", "Approval", "Up", "Down", "Replies", "Vote rate"),
            [_approval(version) for version in statistics.approval],
        )
        + f'<p class="tl-note">{NOTE}</p><div class="tl-columns">'
        + table("Reason tags", ("Tag", "Up", "Down"), tags)
        + table("Signals, which are no votes", ("Replies were", "Times"), signals)
        + "</div>"
    )


def _canary(canary: CanaryOut) -> str:
    """The canary compared with the deployed version, each in its own chats."""
    sides = table(
        "The canary beside the deployed version",
        ("Version", "Approval", "Up", "Down", "Replies", "Vote rate"),
        [_approval(canary.approval), _approval(canary.approval_deployed)],
    )
    said = f"{escape(canary.version)} gets {canary.share:.0%} of the new chats, {canary.chats} so far. "
    found = canary.difference
    if found is None:
        said += "Its approval can be compared once both have votes."
    else:
        said += (
            f"Its approval minus that of {escape(canary.compared_with)}: {100 * found.value:+.0f} points, "
            f"with 95 % confidence {100 * found.low:+.0f} to {100 * found.high:+.0f}."
        )
    if not canary.served:
        said += (
            f' <strong class="tl-alert">This server could not load it; see its log. '
            f"{escape(canary.compared_with)} answers its chats.</strong>"
        )
    return f'<div id="tl-canary">{sides}<p class="tl-note">{said}</p></div>'


def _approval(version: ApprovalOut) -> tuple[str, ...]:
    low, high = 100 * version.low, 100 * version.high
    if version.approval is None:
        shown = '<span class="tl-note">no votes</span>'
    else:
        middle = 100 * version.approval
        figure = f"<strong>{middle:.0f} %</strong>" if version.enough_votes else "not enough votes"
        drawn = (
            f'<i style="left: {low:.1f}%; width: {high - low:.1f}%"></i><b style="left: {middle:.1f}%"></b>'
        )
        shown = (
            f'{figure} <span class="tl-note">{low:.0f}–{high:.0f} %</span>'
            f'<span class="tl-interval" aria-hidden="true">{drawn}</span>'
        )
    rate = "–" if version.vote_rate is None else f"{100 * version.vote_rate:.0f} %"
    return (
        f"<strong>{escape(version.version)}</strong>",
        shown,
        str(version.up),
        str(version.down),
        str(version.replies),
        rate,
    )


def _chart(days: Sequence[DayOut]) -> str:
    """A bar chart with a bar per day: thumbs up above the line, thumbs down below it."""
    most = max([1, *(max(day.up, day.down) for day in days)])
    width = len(days) * (BAR + GAP)
    bars = "".join(_bars(number * (BAR + GAP), day, most) for number, day in enumerate(days))
    ups, downs = sum(day.up for day in days), sum(day.down for day in days)
    said = f"Votes of the last {len(days)} days: {ups} up, {downs} down"
    return (
        f'<figure class="tl-chart"><svg viewBox="0 0 {width} {2 * HEIGHT + 1}" preserveAspectRatio="none"'
        f' role="img" aria-label="{said}">{bars}<rect class="tl-axis" x="0" y="{HEIGHT}" width="{width}"'
        f' height="1"/></svg><figcaption class="tl-note"><span>{days[0].day:%Y-%m-%d}</span>'
        f"<span>{said}, at most {most} of a kind on a day</span><span>today</span></figcaption></figure>"
    )


def _bars(x: int, day: DayOut, most: int) -> str:
    up, down = HEIGHT * day.up / most, HEIGHT * day.down / most
    return (
        f"<g><title>{day.day:%Y-%m-%d}: {day.up} up, {day.down} down</title>"
        f'<rect class="tl-room" x="{x}" y="0" width="{BAR}" height="{2 * HEIGHT + 1}"/>'
        f'<rect class="tl-up" x="{x}" y="{HEIGHT - up:.1f}" width="{BAR}" height="{up:.1f}"/>'
        f'<rect class="tl-down" x="{x}" y="{HEIGHT + 1}" width="{BAR}" height="{down:.1f}"/></g>'
    )
