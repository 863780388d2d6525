"""Builds the parts of a running server, and starts and stops them in the right order.

It imports every part, but no route and no page.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.background.housekeeping import Housekeeping
from app.background.live_settings import LiveSettings
from app.background.monitor import Monitor
from app.background.webhook import WebhookSender
from app.chat.service import ChatService
from app.serving.backend import Backend
from app.serving.deployments import Deployments
from app.serving.device_sharing import DeviceSharing, freeze_loaded
from app.serving.local.backend import LocalBackend
from app.telemetry.collector import StateCollector
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing
from storage.db import audit
from storage.db.changed_settings import current_settings
from storage.db.database import Database, open_database
from storage.errors import ModelUnavailable
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Artifacts
from storage.registry.device_lock import DeviceLock
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from trainer.model.base_model import BaseModelSource, resolve
from trainer.runs.dispatcher import Dispatcher
from trainer.runs.executors import open_executor
from trainer.runs.schedule import Schedule, check_schedule

log = logging.getLogger("thumbloop.serving")

PATIENCE_SECONDS = 60.0  # for replies in progress when a training claims the device


@dataclass(frozen=True)
class Services:
    """The parts of one server; `start` once, then `stop` once."""

    settings: Settings
    live_settings: LiveSettings
    database: Database
    artifacts: Artifacts
    source: BaseModelSource | None  # None if an external server replies and there is no local model
    backend: Backend
    deployments: Deployments
    device_sharing: DeviceSharing | None  # None if serving and training use the device at the same time
    chat_service: ChatService
    schedule: Schedule
    dispatcher: Dispatcher
    metrics: Metrics
    webhook: WebhookSender
    housekeeping: Housekeeping
    monitor: Monitor
    tracing: Tracing | None
    demonstration: bool  # the store was filled by `thumbloop demo`

    def start(self) -> None:
        """Clean up after a server that was killed, serve the deployed version, then start the schedule.

        Raises NotReady if no version can be served.
        """
        self.chat_service.start()
        self._sweep()
        if self.device_sharing is not None:
            self.device_sharing.start()
        self.deployments.start()
        freeze_loaded()
        self.webhook.start()
        self.housekeeping.start()
        self.dispatcher.start()
        self.schedule.start()
        self.live_settings.start()
        self.monitor.start()

    def stop(self) -> None:
        """End replies and training without loss: replies are saved, and an unfinished run is requeued."""
        self.monitor.stop()
        self.live_settings.stop()
        self.schedule.stop()
        self.chat_service.close()
        self.dispatcher.stop(terminate=True)
        if self.device_sharing is not None:
            self.device_sharing.stop()
        self.deployments.stop()
        self.backend.close()
        self.webhook.stop()
        self.housekeeping.stop()
        if self.tracing is not None:
            self.tracing.stop()
        self.database.close()

    def _sweep(self) -> None:
        with self.database.read() as session:
            paths = [version.path for version in model_versions.list_versions(session) if version.path]
            active = training_runs.active_run(session)
        for name in self.artifacts.sweep(paths, [active.id] if active is not None else []):
            text = "No model version owns the adapter folder %s: it is in %s and will be removed in %d days."
            log.warning(text, name, self.artifacts.trash, self.settings.trash_days)


def build_services(settings: Settings, progress: Callable[[str], None] = log.info) -> Services:
    """Open the database and load the base model, unless another server has it.

    `progress` gets a sentence about each slow step.

    Raises BadSetting, ModelUnavailable, NotReady, and Conflict for a database of another base model.
    """
    executor = open_executor(settings)
    tracing = Tracing() if settings.opentelemetry else None
    configured, database = settings, open_database(settings, alone=True)
    try:
        with database.read() as session:
            settings = current_settings(session, configured).model_copy()  # live_settings renews it
            installation = model_versions.installation_id(session)
            demonstration = audit.is_demonstration(session)
        Artifacts(settings.data_dir).check_installation(installation, database.shown_address)
        source = _find_model(settings, progress)
        with database.write() as session:
            installation = model_versions.ensure_base(session, settings.model).id
        artifacts = open_artifacts(settings, database, patience=0)  # it looks again every second
        artifacts.note_installation(installation)
        device = DeviceLock(settings.data_dir) if settings.device_mode == "exclusive" else None
        backend = _make_backend(settings, source, wait=device is not None and not device.use())
    except BaseException:
        database.close()
        raise
    metrics = Metrics()
    metrics.registry.register(StateCollector(database, backend))
    deployments = Deployments(
        database,
        artifacts,
        backend,
        max_loaded_versions=settings.max_loaded_versions,
        on_swap=metrics.swapped,
    )
    device_sharing = None
    if device is not None:
        assert isinstance(backend, LocalBackend)
        device_sharing = DeviceSharing(
            *(database, device, deployments, partial(backend.release, PATIENCE_SECONDS)),
            lease_seconds=settings.lease_seconds,
        )
    schedule = Schedule(database, settings)
    live_settings = LiveSettings(
        *(database, configured, settings),
        check=check_schedule,
        renewed=schedule.renew,
    )
    return Services(
        settings=settings,
        live_settings=live_settings,
        database=database,
        artifacts=artifacts,
        source=source,
        backend=backend,
        deployments=deployments,
        device_sharing=device_sharing,
        chat_service=ChatService(database, deployments, settings, metrics, tracing),
        schedule=schedule,
        dispatcher=Dispatcher(database, settings, executor),
        metrics=metrics,
        webhook=WebhookSender(database, settings),
        housekeeping=Housekeeping(database, settings),
        monitor=Monitor(database, settings, deployments),
        tracing=tracing,
        demonstration=demonstration,
    )


def _find_model(settings: Settings, progress: Callable[[str], None]) -> BaseModelSource | None:
    try:
        return resolve(settings, progress)
    except ModelUnavailable as error:
        if settings.backend == "local":
            raise
        log.warning("Prompts are not counted and training is impossible. %s", error)
        return None


def _make_backend(settings: Settings, source: BaseModelSource | None, *, wait: bool) -> Backend:
    if settings.backend == "openai":
        from app.serving.openai.backend import ExternalBackend  # imports for a second, so only when used

        return ExternalBackend(settings, source)
    assert source is not None
    return LocalBackend(settings, source, wait=wait)
