"""The admin page: votes and weights, train and follow, versions, export and import.

Knows Gradio, the services and storage. Every handler checks the role again, whatever let the request in.
"""

from collections.abc import Callable
from typing import Any

import gradio as gr

from app.api.shapes import run_out
from app.api.stats import current_figures
from app.api.training_runs import read_log
from app.auth import Identity, identity_of
from app.pages import dashboard
from app.services import Services
from storage import audit
from storage.errors import Conflict, NotAllowed, ThumbloopError
from storage.model_versions import roll_back_target, version_of_run
from storage.training_runs import cancel_run, list_runs, request_run

RUNS_SHOWN = 10
LOG_CHARS = 20_000

Update = dict[Any, Any]

# Once a second, and only while somebody looks.
REFRESH_SCRIPT = "setInterval(() => document.hidden || trigger('refresh'), 1000);"

VERSIONS_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-deploy]');
  if (button) trigger('deploy_version', { version: button.dataset.deploy });
});
"""

HEADER = """<div class="tl-header"><h1>Thumbloop admin</h1>
<nav aria-label="Pages"><a href="../">Chat</a> <a href="../docs">API</a></nav></div>"""

DATA = """<h2>Feedback as data</h2><div class="tl-data">
<a class="tl-button" href="../api/v1/export?format=jsonl" download>Export votes (JSONL)</a>
<label class="tl-button">Import votes (JSONL)
<input type="file" accept=".jsonl,.ndjson,.json" data-import></label>
<span class="tl-note" role="status" data-imported></span></div>"""


def build_admin_page(services: Services) -> gr.Blocks:
    page: gr.Blocks = AdminPage(services).blocks
    return page


class AdminPage:
    """The components and what happens on each event; one instance serves every tab."""

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
        self.versions = gr.HTML(js_on_load=VERSIONS_SCRIPT, elem_id="tl-versions", **html)
        gr.HTML("<h2>Runs</h2>", **html)
        self.runs = gr.HTML(elem_id="tl-runs", **html)
        gr.HTML(DATA, **html)

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

    def on_refresh(self, request: gr.Request) -> Update:
        return self._panels(self._admin(request))

    def on_train(self, force: bool, request: gr.Request) -> Update:
        def act(identity: Identity) -> str:
            with self.services.database.write() as session:
                run = request_run(
                    session, trigger="admin", requested_by=identity.user_id, force=force is True
                )
                audit.record(session, identity.name, "request run", run.id, force=run.force)
            return "A training run was requested."

        return self._act(request, act)

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
            done = dashboard.said(act(identity))
        except ThumbloopError as error:
            done = dashboard.said(error.message, bad=True)
        return {self.said: done, **self._panels(identity)}

    def _panels(self, identity: Identity) -> Update:
        """Every panel, as the database has it now."""
        state = current_figures(self.services)
        with self.services.database.read() as session:
            rows = list_runs(session, limit=RUNS_SHOWN)
            runs = [run_out(row, version_of_run(session, row.id)) for row in rows]
            try:
                back = roll_back_target(session).name
            except ThumbloopError:
                back = None
        log = read_log(self.services.settings.data_dir, rows[0].log_path) if rows else ""
        active = state.active_run is not None
        return {
            self.overview: dashboard.overview(state),
            self.run: dashboard.run_panel(runs[0] if runs else None),
            self.log: dashboard.log_tail(log[-LOG_CHARS:]),
            self.versions: dashboard.version_table(state.versions),
            self.runs: dashboard.run_table(runs),
            self.train: gr.Button(interactive=not active),
            self.cancel: gr.Button(visible=active),
            self.roll_back: gr.Button(
                f"Roll back to {back}" if back else "Roll back", interactive=back is not None
            ),
        }
