"""The admin page's panels as HTML: counts and weights, the run under way, runs, versions.

Pure functions without database or Gradio. They escape all text from people and models.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

from app.api.schemas import RunOut, VersionOut
from app.api.v1.stats import Figures
from storage.examples.weights import KEPT
from storage.privacy.erasure import ErasureReport
from trainer.gate.measures import MEASURES

ACTIVE = ("requested", "running")
UP, DOWN = "λ<sub>D</sub>", "λ<sub>U</sub>"
RULE = f"A rarer kind of vote weighs more: {UP}·up / {DOWN}·down is kept {KEPT}."
NO_WEIGHTS = "Weights follow from the counts once there are votes of both kinds."


def overview(stats: Figures) -> str:
    """Counts, weights, readiness and schedule."""
    answering = ", ".join(version.name for version in stats.versions if version.deployed)
    weights = stats.weights
    cards = [
        _card("Thumbs up", f"{stats.votes.up}"),
        _card("Thumbs down", f"{stats.votes.down}"),
        _card(f"Weight up, {UP}", _number(weights.desirable)),
        _card(f"Weight down, {DOWN}", _number(weights.undesirable)),
        _card("Answering now", escape(answering)),
    ]
    ready = stats.readiness
    next_run = _time(stats.schedule.next_run) if stats.schedule.next_run else "none"
    return (
        f'<div class="tl-cards">{"".join(cards)}</div>'
        f'<p class="tl-note">{RULE if weights.desirable is not None else NO_WEIGHTS}</p>'
        f'<p class="tl-ready">{_badge("ready" if ready.ready else "not ready", good=ready.ready)}'
        f" {escape(ready.reason)}</p>"
        f'<p class="tl-ready">{_badge("schedule")} {_with_code(stats.schedule.description)}'
        f" Next run: {next_run}.</p>"
    )


def run_panel(run: RunOut | None) -> str:
    """The latest run: its progress bar while it is under way, then its result."""
    if run is None:
        return '<p class="tl-note">No training run yet.</p>'
    if run.state not in ACTIVE:
        made = f" It made {escape(run.model_version)}." if run.model_version else ""
        return f'<p class="tl-ready">Last run: {_state(run.state)} {escape(run.reason or "")}{made}</p>'
    progress = run.progress
    step, steps = progress.get("step"), progress.get("steps")
    share = 100 * step / steps if step is not None and steps else None
    return (
        f'<div class="tl-run"><p><strong>{escape(_phase(run))}</strong>'
        f'<span class="tl-facts">{escape(_facts(progress))}</span></p>{_bar(share)}</div>'
    )


def run_table(runs: Sequence[RunOut]) -> str:
    rows = [
        (
            _time(run.created_at),
            escape(run.trigger),
            _state(run.state),
            escape(run.model_version or ""),
            escape(_took(run)),
            _why(run.reason),
        )
        for run in runs
    ]
    return table("Training runs", ("Asked for", "By", "State", "Version", "Took", "Reason"), rows)


def version_table(versions: Sequence[VersionOut]) -> str:
    """The versions; each one that could be served but is not has a button that names it."""
    rows = []
    trying = any(version.canary for version in versions)
    for version in versions:
        measured = held_out(version.metrics)
        state = _badge("deployed", good=True) if version.deployed else _state(version.state)
        if version.canary:
            state += " " + _badge(f"canary {version.share:.0%}", good=True)
        action = ""
        if not version.deployed and version.state in ("ready", "candidate"):
            action = _version_button("Deploy", version, "deploy")
            if version.canary:
                action += _version_button("End canary of", version, "end-canary", "End canary")
            elif not trying:
                action += _version_button("Try", version, "canary", "Try as canary")
        rows.append(
            (
                f"<strong>{escape(version.name)}</strong>",
                state + _erased(version),
                *(_number(measured.get(one.name), one.digits) for one in MEASURES),
                _time(version.created_at),
                _why(version.reason),
                action,
            )
        )
    heads = ("Version", "State", *(one.column for one in MEASURES), "Made", "Verdict", "")
    return table("Model versions", heads, rows)


def _version_button(verb: str, version: VersionOut, action: str, text: str = "") -> str:
    return (
        f'<button type="button" class="tl-button" data-{action}="{escape(version.name)}"'
        f' aria-label="{verb} {escape(version.name)}">{text or verb}</button>'
    )


def _erased(version: VersionOut) -> str:
    if not version.erased_votes:
        return ""
    votes = "1 vote" if version.erased_votes == 1 else f"{version.erased_votes} votes"
    return (
        f'<p class="tl-why">{_badge("remembers", good=False)} It was trained on {votes} that were erased or '
        'withdrawn since. <button type="button" class="tl-button" data-retrain>Retrain from base</button></p>'
    )


def held_out(metrics: dict[str, Any]) -> dict[str, Any]:
    """The gate's measurements of the candidate; empty for the base model."""
    found = metrics.get("candidate", {})
    return found if isinstance(found, dict) else {}


def log_tail(text: str, lines: int = 200) -> str:
    tail = "\n".join(text.splitlines()[-lines:])
    return f'<pre class="tl-log" tabindex="0">{escape(tail) or "The log is empty."}</pre>'


def said(text: str, *, bad: bool = False) -> str:
    """A message that assistive technology reads out at once."""
    role, kind = ("alert", "tl-alert") if bad else ("status", "tl-status")
    return f'<p class="{kind}" role="{role}">{escape(text)}</p>' if text else ""


def _phase(run: RunOut) -> str:
    if run.cancel_requested:
        return "Stopping"
    if run.state == "requested":
        return "Waiting for a trainer"
    return str(run.progress.get("phase", "starting")).capitalize()


def _facts(progress: dict[str, Any]) -> str:
    facts = []
    if progress.get("steps"):
        facts.append(f"step {progress.get('step', 0)} of {progress['steps']}")
    if progress.get("loss") is not None:
        facts.append(f"loss {progress['loss']:.4f}")
    if progress.get("seconds_left") is not None:
        facts.append(f"{_duration(progress['seconds_left'])} left")
    return " · ".join(facts)


def _bar(share: float | None) -> str:
    if share is None:
        value, width, kind = "", "100%", " tl-waiting"
    else:
        value, width, kind = f' aria-valuenow="{share:.0f}"', f"{share:.1f}%", ""
    return (
        f'<div class="tl-bar-track{kind}" role="progressbar" aria-label="Progress of the training run"'
        f' aria-valuemin="0" aria-valuemax="100"{value}><div style="width: {width}"></div></div>'
    )


def _took(run: RunOut) -> str:
    if run.started_at is None or run.finished_at is None:
        return ""
    return _duration((run.finished_at - run.started_at).total_seconds())


def _duration(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; the cells are HTML already, the caption is for assistive technology."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    none = "" if rows else f'<tr><td colspan="{len(heads)}">None yet.</td></tr>'
    return (
        f'<div class="tl-table"><table><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}{none}</tbody></table></div>"
    )


def erasure_preview(name: str, found: ErasureReport) -> str:
    """What an erasure would remove; `name` is as the admin typed it."""
    versions = ", ".join(found.affected_versions)
    after = (
        f"Trained on some of it: <strong>{escape(versions)}</strong>; what they learned stays until a "
        "retrain from the base replaces them."
        if versions
        else "No model version was trained on any of it."
    )
    return (
        f'<p class="tl-ready"><strong>{escape(name)}</strong>: {found.chats} chats with {found.messages} '
        f"messages, {found.votes} votes and {found.signals} signals would be erased, with name and secrets. "
        f"{after} Exports in the data directory go too. There is no way back.</p>"
    )


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M} UTC</time>'


def _with_code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _why(reason: str | None) -> str:
    return f'<div class="tl-why">{escape(reason or "")}</div>'


def _state(state: str) -> str:
    good = {"succeeded": True, "ready": True, "failed": False, "rejected": False}.get(state)
    return _badge(state, good=good)


def _badge(text: str, *, good: bool | None = None) -> str:
    kind = {True: " tl-good", False: " tl-bad", None: ""}[good]
    return f'<span class="tl-badge{kind}">{escape(text)}</span>'


def _card(title: str, value: str) -> str:
    return f'<div class="tl-card"><span>{title}</span><strong>{value}</strong></div>'
