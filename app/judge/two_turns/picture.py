"""Draws a two-turn evaluation: bars of the turns, and a radar of the categories."""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.judge.two_turns.plan import RATING
from storage.files.atomic import written_aside

BARS = ("first", "second", "average")


def draw_scores(report: Mapping[str, Any], file: Path) -> bool:
    """Write the scores as PNG; returns False if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(11, 5), dpi=150)
    bars, radar = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2, projection="polar")
    width = 0.8 / len(report["versions"])
    for place, version in enumerate(report["versions"]):
        found = [version[name] or dict.fromkeys(("mean", "low", "high"), math.nan) for name in BARS]
        means = [one["mean"] for one in found]
        ends = [[one["mean"] - one["low"] for one in found], [one["high"] - one["mean"] for one in found]]
        at = [bar - 0.4 + width * (place + 0.5) for bar in range(len(BARS))]
        bars.bar(at, means, width, yerr=ends, capsize=3, label=version["version"])
        rated = [
            one["average"]["mean"] if one["average"] else math.nan for one in version["categories"].values()
        ]
        angles = [2 * math.pi * number / len(rated) for number in range(len(rated))]
        radar.plot([*angles, angles[0]], [*rated, rated[0]], marker="o", markersize=3)
    bars.set_xticks(range(len(BARS)), ["first turn", "second turn", "average"])
    bars.set_ylabel(f"rating by {report['judge']} (bars: 95 % interval)")
    bars.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
    bars.spines[["top", "right"]].set_visible(False)
    radar.set_xticks(angles, list(report["versions"][0]["categories"]))
    radar.tick_params(axis="x", pad=12)
    for axes in (bars, radar):
        axes.set_ylim(0, RATING.scale[1])
    figure.tight_layout()
    with written_aside(file) as part:
        figure.savefig(part, format="png")
    pyplot.close(figure)
    return True
