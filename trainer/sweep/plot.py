"""A sweep as a picture: AUC and liked replies over β, a line for each loss. Needs matplotlib."""

import importlib.util
import logging
from collections import defaultdict
from pathlib import Path

from trainer.sweep.folder import Sweep
from trainer.sweep.grid import Result

log = logging.getLogger(__name__)

EXTRA = "plot"


def draw(sweep: Sweep, file: Path) -> bool:
    """Write the PNG anew; False, with the reason in the log, without matplotlib or anything to draw."""
    if importlib.util.find_spec("matplotlib") is None:
        log.warning(
            "No plot: matplotlib is not installed. After `pip install 'thumbloop[%s]'`, "
            "`thumbloop sweep --out %s` draws it.",
            *(EXTRA, file.parent),
        )
        return False
    lines: dict[tuple[str, float], list[Result]] = defaultdict(list)
    for result in sorted(sweep.ranked, key=lambda result: result.point.beta):
        if result.is_sound:
            lines[result.point.loss, result.point.learning_rate].append(result)
    if not lines:
        log.info("No plot: no point has an AUC.")
        return False
    # Not pyplot, which keeps figures and looks for a screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for (loss, rate), results in sorted(lines.items()):
        betas = [result.point.beta for result in results]
        label = f"{loss}, learning rate {rate:g}"
        aucs, errors = [r.auc for r in results], [r.auc_standard_error for r in results]
        above.errorbar(betas, aucs, yerr=errors, marker="o", capsize=3, label=label)
        below.plot(betas, [r.liked_change for r in results], marker="o", label=label)
    above.axhline(0.5, color="grey", linewidth=0.8, linestyle="--")
    below.axhline(0.0, color="grey", linewidth=0.8, linestyle="--")
    above.set_ylabel("AUC on held-out votes ± standard error")
    below.set_ylabel("liked replies, change in nats")
    below.set_xlabel("β")
    above.set_ylim(top=1.03)  # what an error bar says beyond 1 cannot be
    lines_drawn, names = below.get_legend_handles_labels()
    figure.legend(lines_drawn, names, loc="outside lower center", ncols=3, fontsize="small")
    held_out = sweep.plan["held_out"]
    above.set_title(f"{len(sweep.ranked)} points, {held_out['up']} up and {held_out['down']} down held out")
    aside = file.with_name(f".{file.name}.new")
    figure.savefig(aside, format="png", dpi=110)
    aside.replace(file)
    return True
