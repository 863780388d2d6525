"""Shows a two-turn evaluation on the terminal: the versions, the categories, and what is missing."""

from collections.abc import Mapping
from typing import Any

from app.commands.terminal import print_table, say
from app.judge.two_turns.scores import TURNS
from storage.registry.evaluations import FAULTS

MISSING = {
    **FAULTS,
    "no_result": "turns without a comparison",
    "by_place": "ties because a place won, whatever was there",
}


def show(report: Mapping[str, Any]) -> None:
    versions, baseline = report["versions"], report["baseline"]
    heads = ["version", *(f"{name} turn" for name in TURNS), "average"]
    if baseline is not None:
        heads += [f"won, tied, lost against {baseline}", "win rate", "difference"]
    print_table(heads, [_cells(version, baseline) for version in versions])
    say("")
    print_table(
        ("average by category", *(version["version"] for version in versions)),
        [
            (category, *(_mean(version["categories"][category]["average"]) for version in versions))
            for category in versions[0]["categories"]
        ],
    )
    for version in versions:
        counts = {**version["faults"], **version.get("against_baseline", {})}
        found = [f"{what}: {counts[name]}" for name, what in MISSING.items() if counts.get(name)]
        if found:
            say(f"{version['version']}: {'; '.join(found)}.")
    say("In brackets: 95 % intervals, by a bootstrap over the questions.")


def _cells(version: Mapping[str, Any], baseline: str | None) -> tuple[str, ...]:
    scores = (version["version"], *(_shown(version[name]) for name in (*TURNS, "average")))
    if baseline is None:
        return scores
    against = version.get("against_baseline")
    if against is None:
        return (*scores, "", "", "")
    counts = ", ".join(str(against[name]) for name in ("win", "tie", "loss"))
    return (*scores, counts, _shown(against["win_rate"], "{:.0%}"), _shown(against["difference"], "{:+.2f}"))


def _shown(found: Mapping[str, float] | None, form: str = "{:.2f}") -> str:
    if found is None:
        return "none"
    mean, low, high = (form.format(found[name]) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _mean(found: Mapping[str, float] | None) -> str:
    return "none" if found is None else f"{found['mean']:.2f}"
