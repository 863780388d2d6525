"""The newest sweep on the admin page as HTML: its verdict, its plot and a table of its points.

Pure functions without files or Gradio. They escape all text from outside.
"""

import base64
from html import escape

from app.api.v1.sweeps import PointOut, SweepOut
from app.pages.admin.overview import table
from trainer.sweep.grid import TITLES, shown_measures

NONE = (
    '<p class="tl-note">No sweep yet: <code>thumbloop sweep</code> tries β, losses and learning rates on the '
    "votes of this installation.</p>"
)
NOTE = (
    "Measured on held-out votes: AUC of r = log π − log π_ref against the label, with its standard error; "
    "the margin of r, the change of liked replies against the base model and z0 in nats."
)
HEADS = (
    "Rank",
    "Loss",
    "β",
    "Learning rate",
    *(t if len(t) < 3 else t[0].upper() + t[1:] for t in TITLES),
    "State",
)


def sweep_panel(sweep: SweepOut | None, plot: bytes | None) -> str:
    """`plot` is a PNG; it is embedded in the page, so it needs no URL."""
    if sweep is None:
        return NONE
    held_out = sweep.held_out
    said = (
        f"Sweep of {sweep.created_at:%Y-%m-%d %H:%M} UTC, {held_out['up']} up and {held_out['down']} down "
        "held out."
    )
    picture = ""
    if plot is not None:
        data = base64.b64encode(plot).decode()
        picture = (
            f'<img class="tl-plot" src="data:image/png;base64,{data}" '
            'alt="AUC over β, loss and learning rate; the figures are in the table">'
        )
    rows = [_row(point) for point in sweep.points]
    return (
        f'<p class="tl-ready">{escape(said)} {escape(sweep.verdict)}</p>{picture}'
        + table("Points of the sweep, best first", HEADS, rows)
        + f'<p class="tl-note">{NOTE}</p>'
    )


def _row(point: PointOut) -> tuple[str, ...]:
    return (
        "" if point.rank is None else str(point.rank),
        escape(point.loss),
        f"{point.beta:g}",
        f"{point.learning_rate:g}",
        *shown_measures(lambda name: getattr(point, name)),
        escape(point.state),
    )
