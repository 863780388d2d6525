"""Draws the learning curve of a simulation."""

import importlib.util
from pathlib import Path
from typing import Any

from storage.files.atomic import written_aside


def draw_curve(report: dict[str, Any], file: Path) -> bool:
    """Write the liked share over the votes as PNG; returns False if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    points = [point for point in report["points"] if point["measures"]]
    votes = [point["votes"] for point in points]
    liked = [100 * point["measures"]["liked"] for point in points]
    below = [100 * (point["measures"]["liked"] - point["measures"]["low"]) for point in points]
    above = [100 * (point["measures"]["high"] - point["measures"]["liked"]) for point in points]
    figure, axes = pyplot.subplots(figsize=(7, 4), dpi=150)
    axes.errorbar(votes, liked, yerr=[below, above], marker="o", capsize=4, color="#4f46e5")
    for point, count, share in zip(points, votes, liked, strict=True):
        axes.annotate(point["version"], (count, share), xytext=(6, 6), textcoords="offset points")
    axes.set_xlabel("votes")
    axes.set_ylabel("liked replies to unseen prompts (%)")
    axes.set_ylim(0, 100)
    axes.set_title(f"Taste: {report['plan']['taste']}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    with written_aside(file) as part:
        figure.savefig(part, format="png")
    pyplot.close(figure)
    return True
