"""What the admin's pages draw of runs and versions: progress, curves, approval."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.api.schemas import ApprovalOut, RunOut
from app.pages.admin.charts import CURVE, approval_points, curve, run_curves
from app.pages.admin.training import compared
from app.pages.html import render
from storage.chats.stats import VersionStats


def run(**fields: Any) -> RunOut:
    given = {
        "id": "r",
        "state": "running",
        "reason": None,
        "trigger": "admin",
        "force": False,
        "cancel_requested": False,
        "progress": {},
        "metrics": {},
        "model_version": None,
        "attempts": 1,
        "created_at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        "started_at": None,
        "finished_at": None,
    }
    return RunOut(**(given | fields))


def test_progress_bar_has_the_share_that_is_done() -> None:
    progress = {"phase": "training", "step": 3, "steps": 12, "loss": 0.5, "seconds_left": 75.2}
    panel = render("admin/progress.html", run=run(progress=progress), curves=[], curve_size=CURVE)
    assert 'aria-valuenow="25"' in panel
    assert "step 3 of 12 · loss 0.5000 · 1 min 15 s left" in panel


@pytest.mark.parametrize("progress", [{}, {"phase": "evaluating"}, {"step": 0, "steps": 0}])
def test_progress_bar_without_a_share_waits(progress: dict[str, Any]) -> None:
    panel = render("admin/progress.html", run=run(progress=progress), curves=[], curve_size=CURVE)
    assert "aria-valuenow" not in panel
    assert 'role="progressbar"' in panel


def test_reasons_of_runs_are_escaped() -> None:
    over = run(state="failed", reason="<script>alert(1)</script>")
    shown = {"run": over, "curves": [], "curve_size": CURVE, "log": "<script>"}
    for part in ("progress", "run_now"):
        assert "<script" not in render(f"admin/{part}.html", **shown)


def test_a_curve_fills_its_plot_and_passes_over_what_is_unknown() -> None:
    drawn = curve("Loss", [(1, 0.5), (2, None), (5, 0.1), (9, 0.3)])
    assert drawn is not None
    assert drawn.path == "0.0,0.0 150.0,80.0 300.0,40.0"
    assert (drawn.low, drawn.high, drawn.latest, drawn.first, drawn.last) == (0.1, 0.5, 0.3, 1, 9)
    assert curve("Loss", [(1, 0.5), (2, None)]) is None


def test_a_flat_curve_is_drawn() -> None:
    drawn = curve("Margin", [(3, 0.2), (4, 0.2)])
    assert drawn is not None
    assert drawn.path == "0.0,80.0 300.0,80.0"


def test_the_curves_of_a_run_are_those_that_its_progress_keeps() -> None:
    points = [[1, 0.5, None, 0.0], [2, 0.4, 0.1, 0.2], [3, 0.3, None, 0.3]]
    assert [one.title for one in run_curves({"curve": points})] == ["Loss", "z0, the KL estimate"]
    assert run_curves({}) == []


def test_approval_is_drawn_from_the_oldest_version_to_the_newest() -> None:
    def approval(version: str, up: int, down: int) -> ApprovalOut:
        return ApprovalOut.model_validate(VersionStats(version, 10, up, down))

    points = approval_points([approval("v3", 3, 1), approval("v2", 0, 0), approval("v1", 1, 1)])
    assert [(one.version, one.x, one.y) for one in points] == [("v1", 180.0, 100.0), ("v3", 540.0, 50.0)]
    assert all(0 <= one.high < one.y < one.low <= 200 for one in points)
    assert "75%" in points[1].label


def test_compared_runs_show_figures_and_the_settings_that_differ() -> None:
    metrics = {
        "plan": {"up": 8, "down": 10},
        "training": {"steps": 9, "seconds_per_row": 0.768},
        "candidate": {"loss": 0.48874},
    }
    rows = compared(
        [
            (run(state="succeeded", metrics=metrics), [("BETA", "0.1"), ("SEED", "0")]),
            (run(state="failed"), [("BETA", "0.3"), ("SEED", "0")]),
        ]
    )
    found = dict(rows)
    assert found["State"] == ["succeeded", "failed"]
    assert found["Rows"] == ["8 up, 10 down", "–"]
    assert found["Seconds a row"] == ["0.77", "–"]
    assert [cells for title, cells in rows if "loss" in title.lower()] == [["0.4887", "–"]]
    assert found["BETA"] == ["0.1", "0.3"]
    assert "SEED" not in found
