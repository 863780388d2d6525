"""The admin page: votes and weights, training, versions, statistics, guard, sweeps, data in and out, erasure.

Every handler checks the admin role again, whatever checks the request passed before.
"""

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from app.pages.admin import panels
from app.pages.blocks import Page, chosen
from app.pages.html import asset, counted, notice, render
from app.services import Services
from app.web.auth import identity_of
from storage.db import audit
from storage.errors import Conflict, NotAllowed, ThumbloopError
from storage.files.installation_key import load_secret
from storage.people.users import find_person
from storage.privacy.erasure import erase_user, preview_user, remove_copies
from storage.privacy.releases import release, withdraw
from storage.registry.training_runs import cancel_run, list_runs, request_run

Update = dict[Any, Any]

HEADER = """<div class="tl-header"><h1>Thumbloop admin</h1>
<nav aria-label="Pages"><a href="feedback">Feedback</a> <a href="audit">Audit</a>
<a href="../">Chat</a> <a href="../docs">API</a>
<form method="post" action="../logout"><button type="submit">Sign out</button></form></nav></div>"""

SHARES = [("5 %", 0.05), ("10 %", 0.1), ("25 %", 0.25), ("50 %", 0.5)]  # of new chats


def acts(*, with_reports: bool = False) -> Callable[[Callable[..., str]], Callable[..., Update]]:
    """An event handler that shows its result or its error, and draws the figures, or all panels, again."""

    def decorate(handler: Callable[..., str]) -> Callable[..., Update]:
        @functools.wraps(handler)
        def shown(self: "AdminPage", *arguments: Any) -> Update:
            self._admin_id(arguments[-1])
            try:
                result = notice(handler(self, *arguments), bad=False)
            except ThumbloopError as error:
                result = notice(error.message)
            reports = self.on_reports(arguments[-1]) if with_reports else {}
            return {self.result: result, **self._draw_figures(), **reports}

        return shown

    return decorate


class AdminPage:
    """The components and the event handlers; one instance serves every browser tab."""

    def __init__(self, services: Services) -> None:
        self.services = services
        # The panels by the name of their template in templates/admin, in two groups by how often they change.
        self.figures: dict[str, gr.HTML] = {}
        self.reports: dict[str, gr.HTML] = {}
        with Page(title="Thumbloop admin", analytics_enabled=False, fill_width=True) as self.blocks:
            with gr.Column(elem_id="tl-admin"):
                self._lay_out()
            self._wire()
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out(self) -> None:
        def html(text: str | None = None, **options: Any) -> gr.HTML:
            return gr.HTML(text, apply_default_css=False, **options)

        def panel(group: dict[str, gr.HTML], name: str, **options: Any) -> None:
            group[name] = html(elem_id=f"tl-{name}", **options)

        html(HEADER)
        self.result = html(elem_id="tl-result")
        panel(self.figures, "overview", js_on_load=asset("refresh.js"))
        with gr.Row(elem_classes="tl-actions"):
            self.train = gr.Button("Train now", variant="primary", scale=0, min_width=140)
            self.cancel = gr.Button("Cancel run", variant="stop", scale=0, min_width=140, visible=False)
            self.force = gr.Checkbox(label="Train even if not ready", container=False, scale=0, min_width=220)
        panel(self.figures, "progress")
        with gr.Accordion("Log of the latest run", open=False):
            panel(self.figures, "log", autoscroll=True)
        with gr.Row(elem_classes="tl-actions"):
            html("<h2>Versions</h2>")
            self.roll_back = gr.Button("Roll back", scale=0, min_width=120, interactive=False)
            self.share = gr.Dropdown(SHARES, value=0.1, label="Share of a canary", scale=0, min_width=170)
        panel(self.figures, "versions", js_on_load=asset("versions.js"))
        html("<h2>Runs</h2>")
        panel(self.figures, "runs")
        html("<h2>What people think</h2>")
        panel(self.reports, "statistics")
        html("<h2>Guard</h2>")
        panel(self.reports, "guard", js_on_load=asset("guard.js"))
        html("<h2>Newest sweep</h2>")
        panel(self.reports, "sweep")
        html(panels.data_forms())
        html("<h2>Erase a person</h2>")
        with gr.Row(elem_classes="tl-actions", elem_id="tl-erase"):
            self.person = gr.Textbox(
                label="Account name, id, or user_hash of an export", max_lines=1, scale=1, min_width=260
            )
            self.preview = gr.Button("Preview", scale=0, min_width=180)
        self.previewed = html(elem_id="tl-preview")
        self.erase = gr.Button("Erase for ever", variant="stop", visible=False, elem_id="tl-erase-now")
        self.chosen = gr.State("")  # the id of the person whose preview is shown

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        changing = [*self.figures.values(), self.train, self.cancel, self.roll_back]
        reports = [*self.reports.values()]
        acting: dict[str, Any] = {"outputs": [self.result, *changing, *reports], **quiet}
        overview, versions = self.figures["overview"], self.figures["versions"]
        self.blocks.load(self.on_refresh, None, changing, **quiet)
        overview.refresh(self.on_refresh, None, changing, trigger_mode="once", **quiet)
        self.blocks.load(self.on_reports, None, reports, **quiet)
        overview.refresh_reports(self.on_reports, None, reports, **quiet)
        self.train.click(self.on_train, self.force, **acting)
        self.cancel.click(self.on_cancel, None, **acting)
        self.roll_back.click(self.on_roll_back, None, **acting)
        versions.deploy_version(self.on_deploy, None, **acting)
        versions.try_version(self.on_try, self.share, **acting)
        versions.end_canary(self.on_end_canary, None, **acting)
        versions.retrain(self.on_retrain, None, **acting)
        self.reports["guard"].release_person(self.on_release, None, **acting)
        self.reports["guard"].withdraw_release(self.on_withdraw, None, **acting)
        erasing = [self.previewed, self.erase, self.chosen]
        gr.on([self.preview.click, self.person.submit], self.on_preview, self.person, erasing, **quiet)
        acting["outputs"] = [*acting["outputs"], *erasing, self.person]
        self.erase.click(self.on_erase, self.chosen, **acting)

    def on_refresh(self, request: gr.Request) -> Update:
        self._admin_id(request)
        return self._draw_figures()

    def on_reports(self, request: gr.Request) -> Update:
        self._admin_id(request)
        return _draw(self.reports, panels.reports(self.services))

    @acts()
    def on_train(self, force: bool, request: gr.Request) -> str:
        return self._request_run(request, force=force is True)

    @acts()
    def on_retrain(self, request: gr.Request) -> str:
        return self._request_run(request, fresh=True)

    def _request_run(self, request: gr.Request, *, force: bool = False, fresh: bool = False) -> str:
        by = self._admin_id(request)
        with self.services.database.write() as session:
            run = request_run(session, trigger="admin", requested_by=by, force=force, fresh=fresh)
            audit.record(session, by, "request run", run.id, force=force, fresh=fresh)
        return ""  # the progress says it, and goes on to say what became of it

    @acts()
    def on_cancel(self, request: gr.Request) -> str:
        with self.services.database.write() as session:
            latest = list_runs(session, limit=1)
            if not latest:
                raise Conflict("There is no training run to cancel.")
            run = cancel_run(session, latest[0].id)
            audit.record(session, self._admin_id(request), "cancel run", run.id)
        return ""

    @acts()
    def on_deploy(self, event: gr.EventData, request: gr.Request) -> str:
        deploy, by = self.services.deployments.deploy, self._admin_id(request)
        version = deploy(chosen(event, "version"), by=by, why="Deployed on the admin page.")
        return f"{version.name} answers from now on."

    @acts()
    def on_roll_back(self, request: gr.Request) -> str:
        roll_back, by = self.services.deployments.roll_back, self._admin_id(request)
        version = roll_back(by=by, why="Rolled back on the admin page.")
        return f"Rolled back: {version.name} answers from now on."

    @acts(with_reports=True)
    def on_try(self, share: float | None, event: gr.EventData, request: gr.Request) -> str:
        start, by = self.services.deployments.canary.start, self._admin_id(request)
        version = chosen(event, "version")
        start(version, share=share or 0, by=by, why="Tried on the admin page.")
        return f"{version} answers {share:.0%} of the chats that begin from now on."

    @acts(with_reports=True)
    def on_end_canary(self, request: gr.Request) -> str:
        end, by = self.services.deployments.canary.end, self._admin_id(request)
        version, chats = end(by=by, why="Ended on the admin page.")
        return f"The canary of {version.name} is over; the deployed version answers its {chats} chats."

    @acts(with_reports=True)
    def on_release(self, event: gr.EventData, request: gr.Request) -> str:
        by, person = self._admin_id(request), chosen(event, "person")
        with self.services.database.write() as session:
            release(session, person, by=by, reason="Released on the admin page.")
        return "The guard lets that person's votes pass from the next run on."

    @acts(with_reports=True)
    def on_withdraw(self, event: gr.EventData, request: gr.Request) -> str:
        by, release_id = self._admin_id(request), chosen(event, "release")
        with self.services.database.write() as session:
            withdraw(session, release_id, by=by, reason="Ended on the admin page.")
        return "The release has ended."

    def on_preview(self, person: str | None, request: gr.Request) -> Update:
        """Show what an erasure of that person would remove."""
        self._admin_id(request)
        salt = load_secret(self.services.settings.data_dir)
        try:
            with self.services.database.read() as session:
                user = find_person(session, (person or "").strip(), salt=salt)
                found = preview_user(session, user.id)
        except ThumbloopError as error:
            return self._show_preview(notice(error.message), "")
        return self._show_preview(
            render("admin/erasure.html", name=user.name or user.id, found=found), user.id
        )

    def on_erase(self, user_id: str, request: gr.Request) -> Update:
        return {**self._erase(user_id, request), **self._show_preview("", ""), self.person: ""}

    @acts(with_reports=True)
    def _erase(self, user_id: str, request: gr.Request) -> str:
        with self.services.database.write() as session:
            found = erase_user(session, user_id, by=self._admin_id(request))
        remove_copies(self.services.database, self.services.settings.data_dir)
        affected = f" Affected: {', '.join(found.affected_versions)}." if found.affected_versions else ""
        chats, messages = counted(found.chats, "chat"), counted(found.messages, "message")
        return f"Erased: {chats}, {messages}, {counted(found.votes, 'vote')}.{affected}"

    def _show_preview(self, html: str, user_id: str) -> Update:
        return {self.previewed: html, self.erase: gr.Button(visible=bool(user_id)), self.chosen: user_id}

    def _admin_id(self, request: gr.Request) -> str:
        """The id of the admin who acts; raises NotAllowed for others."""
        identity = identity_of(request, self.services, admin=True)
        if not identity.is_admin:
            raise NotAllowed("Only an admin may do this.", code="admin_only")
        return identity.user_id

    def _draw_figures(self) -> Update:
        values = panels.figures(self.services)
        active, previous = values["figures"].active_run is not None, values["previous"]
        return {
            **_draw(self.figures, values),
            self.train: gr.Button(interactive=not active),
            self.cancel: gr.Button(visible=active),
            self.roll_back: gr.Button(
                f"Roll back to {previous}" if previous else "Roll back", interactive=previous is not None
            ),
        }


def _draw(group: dict[str, gr.HTML], values: dict[str, Any]) -> Update:
    return {component: render(f"admin/{name}.html", **values) for name, component in group.items()}
