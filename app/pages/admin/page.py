"""The admin page: votes and weights, training, versions, statistics, sweeps, export and import, erasure.

Every handler checks the admin role again, whatever checks the request passed before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.api.schemas import run_out
from app.api.v1.stats import current_figures, current_statistics
from app.api.v1.sweeps import newest_sweep
from app.api.v1.training_runs import read_log
from app.pages.admin import overview
from app.pages.admin.data_forms import export_form, import_form
from app.pages.admin.statistics import statistics_panel
from app.pages.admin.sweeps import sweep_panel
from app.services import Services
from app.web.auth import Identity, identity_of
from storage.db import audit
from storage.errors import Conflict, NotAllowed, ThumbloopError
from storage.files.installation_key import load_secret
from storage.people.users import find_person
from storage.privacy.erasure import erase_user, preview_user, remove_copies
from storage.registry.model_versions import roll_back_target
from storage.registry.training_runs import cancel_run, list_runs, request_run

RUNS_SHOWN = 10
LOG_CHARS = 20_000

Update = dict[Any, Any]

# Only while the page is visible. The reports read every reply, so they are refreshed less often.
REFRESH_SCRIPT = """
setInterval(() => document.hidden || trigger('refresh'), 1000);
setInterval(() => document.hidden || trigger('refresh_reports'), 30000);
"""

VERSIONS_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-deploy]');
  if (button) trigger('deploy_version', { version: button.dataset.deploy });
  const tried = event.target.closest('[data-canary]');
  if (tried) trigger('try_version', { version: tried.dataset.canary });
  if (event.target.closest('[data-end-canary]')) trigger('end_canary');
  if (event.target.closest('[data-retrain]')) trigger('retrain');
});
"""

HEADER = """<div class="tl-header"><h1>Thumbloop admin</h1>
<nav aria-label="Pages"><a href="../">Chat</a> <a href="../docs">API</a></nav></div>"""

SHARES = [("5 %", 0.05), ("10 %", 0.1), ("25 %", 0.25), ("50 %", 0.5)]  # of new chats


@dataclass(frozen=True)
class Report:
    """A read-only panel; `draw` makes its HTML."""

    title: str
    element: str  # id in the page
    draw: Callable[[Services], str]


def _statistics(services: Services) -> str:
    return statistics_panel(current_statistics(services))


def _newest_sweep(services: Services) -> str:
    sweep, plot = newest_sweep(services) or (None, None)
    return sweep_panel(sweep, plot.read_bytes() if plot is not None and plot.is_file() else None)


REPORTS = (
    Report("What people think", "tl-statistics", _statistics),
    Report("Newest sweep", "tl-sweep", _newest_sweep),
)


def build_admin_page(services: Services) -> gr.Blocks:
    page: gr.Blocks = AdminPage(services).blocks
    return page


class AdminPage:
    """The components and the event handlers; one instance serves every browser tab."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Blocks(title="Thumbloop admin", analytics_enabled=False, fill_width=True) as self.blocks:
            with gr.Column(elem_id="tl-admin"):
                self._lay_out()
            self._wire()
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out(self) -> None:
        html: dict[str, Any] = {"apply_default_css": False}
        gr.HTML(HEADER, **html)
        self.said = gr.HTML(elem_id="tl-said", **html)
        self.overview = gr.HTML(js_on_load=REFRESH_SCRIPT, **html)
        with gr.Row(elem_classes="tl-actions"):
            self.train = gr.Button("Train now", variant="primary", scale=0, min_width=140)
            self.cancel = gr.Button("Cancel run", variant="stop", scale=0, min_width=140, visible=False)
            self.force = gr.Checkbox(label="Train even if not ready", container=False, scale=0, min_width=220)
        self.run = gr.HTML(elem_id="tl-progress", **html)
        with gr.Accordion("Log of the latest run", open=False):
            self.log = gr.HTML(autoscroll=True, **html)
        with gr.Row(elem_classes="tl-actions"):
            gr.HTML("<h2>Versions</h2>", **html)
            self.roll_back = gr.Button("Roll back", scale=0, min_width=120, interactive=False)
            self.share = gr.Dropdown(SHARES, value=0.1, label="Share of a canary", scale=0, min_width=170)
        self.versions = gr.HTML(js_on_load=VERSIONS_SCRIPT, elem_id="tl-versions", **html)
        gr.HTML("<h2>Runs</h2>", **html)
        self.runs = gr.HTML(elem_id="tl-runs", **html)
        self.reports: dict[gr.HTML, Report] = {}
        for report in REPORTS:
            gr.HTML(f"<h2>{report.title}</h2>", **html)
            self.reports[gr.HTML(elem_id=report.element, **html)] = report
        gr.HTML(
            f'<h2>Feedback as data</h2><div class="tl-columns">{export_form()}{import_form()}</div>', **html
        )
        gr.HTML("<h2>Erase a person</h2>", **html)
        with gr.Row(elem_classes="tl-actions", elem_id="tl-erase"):
            self.person = gr.Textbox(
                label="Account name, id, or user_hash of an export", max_lines=1, scale=1, min_width=260
            )
            self.look = gr.Button("Show what would go", scale=0, min_width=180)
        self.preview = gr.HTML(elem_id="tl-preview", **html)
        self.erase = gr.Button("Erase for ever", variant="stop", visible=False, elem_id="tl-erase-now")
        self.chosen = gr.State("")  # the id of the person whose preview is shown

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        panels = [self.overview, self.run, self.log, self.versions, self.runs, self.cancel, self.roll_back]
        acting = {"outputs": [self.said, self.train, *panels], **quiet}
        self.blocks.load(self.on_refresh, None, [self.train, *panels], **quiet)
        self.overview.refresh(self.on_refresh, None, [self.train, *panels], trigger_mode="once", **quiet)
        self.train.click(self.on_train, self.force, **acting)
        self.cancel.click(self.on_cancel, None, **acting)
        self.versions.deploy_version(self.on_deploy, None, **acting)
        self.roll_back.click(self.on_roll_back, None, **acting)
        compared = {**acting, "outputs": [*acting["outputs"], *self.reports]}
        self.versions.try_version(self.on_try, self.share, **compared)
        self.versions.end_canary(self.on_end_canary, None, **compared)
        self.versions.retrain(self.on_retrain, None, **acting)
        self.blocks.load(self.on_reports, None, list(self.reports), **quiet)
        self.overview.refresh_reports(self.on_reports, None, list(self.reports), **quiet)
        asked = [self.preview, self.erase, self.chosen]
        gr.on([self.look.click, self.person.submit], self.on_look, self.person, asked, **quiet)
        erasing = {**compared, "outputs": [*compared["outputs"], *asked, self.person]}
        self.erase.click(self.on_erase, self.chosen, **erasing)

    def on_refresh(self, request: gr.Request) -> Update:
        return self._panels(self._admin(request))

    def on_train(self, force: bool, request: gr.Request) -> Update:
        return self._request_run(request, force=force is True)

    def on_retrain(self, request: gr.Request) -> Update:
        return self._request_run(request, fresh=True)

    def _request_run(self, request: gr.Request, *, force: bool = False, fresh: bool = False) -> Update:
        def act(identity: Identity) -> str:
            with self.services.database.write() as session:
                run = request_run(
                    session, trigger="admin", requested_by=identity.user_id, force=force, fresh=fresh
                )
                audit.record(session, identity.name, "request run", run.id, force=force, fresh=fresh)
            return "A training run was requested."

        return self._act(request, act)

    def on_reports(self, request: gr.Request) -> Update:
        self._admin(request)
        return {component: report.draw(self.services) for component, report in self.reports.items()}

    def on_look(self, person: str, request: gr.Request) -> Update:
        """What an erasure of that person would remove."""
        self._admin(request)
        salt = load_secret(self.services.settings.data_dir)
        try:
            with self.services.database.read() as session:
                user = find_person(session, person.strip(), salt=salt)
                found = preview_user(session, user.id)
        except ThumbloopError as error:
            return {**self._forget(), self.preview: overview.said(error.message, bad=True)}
        return {
            self.preview: overview.erasure_preview(user.name or user.id, found),
            self.erase: gr.Button(visible=True),
            self.chosen: user.id,
        }

    def on_erase(self, chosen: str, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            with self.services.database.write() as session:
                found = erase_user(session, chosen, by=identity.name)
            remove_copies(self.services.database, self.services.settings.data_dir)
            affected = f" Affected: {', '.join(found.affected_versions)}." if found.affected_versions else ""
            return f"Erased: {found.chats} chats, {found.messages} messages, {found.votes} votes.{affected}"

        shown = self._act(request, act)
        return {**shown, **self._forget(), self.person: "", **self.on_reports(request)}

    def _forget(self) -> Update:
        return {self.preview: "", self.erase: gr.Button(visible=False), self.chosen: ""}

    def on_cancel(self, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            with self.services.database.write() as session:
                latest = list_runs(session, limit=1)
                if not latest:
                    raise Conflict("There is no training run to cancel.")
                run = cancel_run(session, latest[0].id)
                audit.record(session, identity.name, "cancel run", run.id)
            return "The run is being cancelled."

        return self._act(request, act)

    def on_deploy(self, event: gr.EventData, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            version = self.services.deployments.deploy(
                str(event.version), by=identity.name, why="Deployed on the admin page."
            )
            return f"{version.name} answers from now on."

        return self._act(request, act)

    def on_try(self, share: float, event: gr.EventData, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            self.services.deployments.canary.start(
                str(event.version), share=share, by=identity.name, why="Tried on the admin page."
            )
            return f"{event.version} answers {share:.0%} of the chats that begin from now on."

        return {**self._act(request, act), **self.on_reports(request)}

    def on_end_canary(self, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            version, chats = self.services.deployments.canary.end(
                by=identity.name, why="Ended on the admin page."
            )
            return f"The canary of {version.name} is over; the deployed version answers its {chats} chats."

        return {**self._act(request, act), **self.on_reports(request)}

    def on_roll_back(self, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            version = self.services.deployments.roll_back(
                by=identity.name, why="Rolled back on the admin page."
            )
            return f"Rolled back: {version.name} answers from now on."

        return self._act(request, act)

    def _admin(self, request: gr.Request) -> Identity:
        identity = identity_of(request, self.services)
        if not identity.is_admin:
            raise NotAllowed("Only an admin may do this.", code="admin_only")
        return identity

    def _act(self, request: gr.Request, act: Callable[[Identity], str]) -> Update:
        identity = self._admin(request)
        try:
            done = overview.said(act(identity))
        except ThumbloopError as error:
            done = overview.said(error.message, bad=True)
        return {self.said: done, **self._panels(identity)}

    def _panels(self, identity: Identity) -> Update:
        """An update of every panel from the database."""
        state = current_figures(self.services)
        with self.services.database.read() as session:
            rows = list_runs(session, limit=RUNS_SHOWN)
            runs = [run_out(session, row) for row in rows]
            try:
                back = roll_back_target(session).name
            except ThumbloopError:
                back = None
        log = read_log(self.services.settings.data_dir, rows[0].log_path) if rows else ""
        active = state.active_run is not None
        return {
            self.overview: overview.overview(state),
            self.run: overview.run_panel(runs[0] if runs else None),
            self.log: overview.log_tail(log[-LOG_CHARS:]),
            self.versions: overview.version_table(state.versions),
            self.runs: overview.run_table(runs),
            self.train: gr.Button(interactive=not active),
            self.cancel: gr.Button(visible=active),
            self.roll_back: gr.Button(
                f"Roll back to {back}" if back else "Roll back", interactive=back is not None
            ),
        }
