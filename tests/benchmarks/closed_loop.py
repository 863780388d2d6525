"""The learning curves of several tastes and seeds: `thumbloop simulate` for each, one after the other.

`brief` and `lists` are the tastes that defaults were chosen with. Each simulation has a folder in `--out`,
and the same command continues. 400 votes on the default model take about an hour on two cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.report import print_report

SHOWN = (
    "liked",
    "low",
    "high",
    "words",
    "finished",
    "empty",
    "repeated_4grams",
    "log_probability",
    "coherence",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tastes", default="brief,lists,one-sentence,impersonal,formal")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--votes", type=int, default=400)
    parser.add_argument("--cycles", type=int, default=2)
    parser.add_argument("--coherence-model", help="a folder or a hub id")
    parser.add_argument("--out", type=Path, default=Path("closed-loop"))
    given = parser.parse_args()
    found = {
        f"{taste}, seed {seed}": curve(given, taste, seed)
        for taste in given.tastes.split(",")
        for seed in range(given.seeds)
    }
    print_report("closed loop", {"votes": given.votes, "cycles": given.cycles, "curves": found})


def curve(given: argparse.Namespace, taste: str, seed: int) -> list[dict[str, Any]]:
    folder = given.out / f"{taste}-{seed}"
    command = [sys.executable, "-m", "app.cli", "simulate", "--taste", taste, "--seed", str(seed)]
    command += ["--votes", str(given.votes), "--cycles", str(given.cycles), "--out", str(folder)]
    if given.coherence_model:
        command += ["--coherence-model", given.coherence_model]
    subprocess.run(command, check=True, stdout=sys.stderr)
    points = json.loads((folder / "report.json").read_text())["points"]
    return [
        {name: point[name] for name in ("version", "votes", "state", "reason")}
        | {name: point["measures"][name] for name in SHOWN if name in point["measures"]}
        for point in points
        if point["measures"]
    ]


if __name__ == "__main__":
    main()
