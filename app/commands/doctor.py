"""`thumbloop doctor`: checks whether this machine is ready, and says what to do.

It changes nothing, but for a file in the artifact store that it removes again.
"""

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import sqlalchemy as sa
import typer
from rich.text import Text

from app.commands.terminal import console, shown_time
from storage.db.database import Database
from storage.db.ids import new_id
from storage.errors import BadSetting, Conflict, NotReady, ThumbloopError
from storage.files.data_dir import is_open
from storage.files.object_store import ObjectStore
from storage.registry.artifacts import Artifacts
from storage.registry.model_versions import deployed_version, installation_id
from storage.settings import Settings, load_settings
from storage.settings.guard import describe_guard, guard_limits
from storage.settings.serving import DEFAULT_MODEL
from trainer.errors import ClusterAway
from trainer.runs.executors import ClusterExecutor, open_executor
from trainer.runs.schedule import Schedule

GIB = 1024**3
MEMORY_NEEDED = 2 * GIB  # to train the default model
DISK_NEEDED = 1 * GIB
NEWEST_TESTED = (3, 13)
SERVER_SECONDS = 5.0  # for an external server to answer
SHOWN_NAMES = 5
SHOWN_TIMES = 5
NO_RUN = "none"  # the id of no run
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    status: Literal["ok", "warn", "fail"]
    text: str
    remedy: str = ""


def doctor() -> None:
    """Check whether this machine is ready. The exit code is 1 if something is missing."""
    settings = load_settings()
    failed = False
    for check in CHECKS:
        try:
            finding = check(settings)
        except (ImportError, OSError) as error:  # OSError: torch misses a library of CUDA or of the system
            finding = Finding("fail", f"a package cannot be loaded: {error}", "Run `make clean install`.")
        failed |= finding.status == "fail"
        name, status = check.__name__.removeprefix("check_"), finding.status
        line = Text.assemble((f"{status:<5}", COLOURS[status]), f"{name:<11}{finding.text}")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':<16}{finding.remedy}", style="bold"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def check_python(_: Settings) -> Finding:
    text = f"{platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] > NEWEST_TESTED:
        return Finding(
            "warn", text, "Newer than the tested versions; if packages fail, use Python 3.11 to 3.13."
        )
    return Finding("ok", text)


def check_torch(_: Settings) -> Finding:
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return Finding("ok", f"{torch.__version__} on {gpu.name}, {gpu.total_memory / GIB:.0f} GiB")
    return Finding("ok", f"{torch.__version__} on the CPU, {os.cpu_count()} cores; no GPU was found")


def check_precision(settings: Settings) -> Finding:
    import torch

    from trainer.model.base_model import number_format

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = str(number_format("auto", device)).removeprefix("torch.")
    return Finding("ok", f"{settings.precision}: this machine is fastest with {chosen}")


def check_memory(_: Settings) -> Finding:
    available = psutil.virtual_memory().available
    text = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_NEEDED:
        return Finding("warn", text, "Training may need more; close other programs.")
    return Finding("ok", text)


def check_data(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding("fail", f"{folder} cannot be written", "Set THUMBLOOP_DATA_DIR to a folder that can.")
    try:
        others_read = folder.exists() and is_open(folder)
    except NotReady as error:
        return Finding("fail", str(folder), error.message)
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {free / GIB:.1f} GiB free"
    if free < DISK_NEEDED:
        return Finding("fail", text, "Free some space, or set THUMBLOOP_DATA_DIR to a larger disk.")
    if not folder.exists():
        return Finding("ok", f"{text}; created at the first start")
    if others_read:
        return Finding(
            "warn", f"{text}; others can read it", f"`chmod 700 {folder}`; the next start does it too."
        )
    return Finding("ok", text)


def check_database(settings: Settings) -> Finding:
    try:
        with closing(Database(settings.database_address)) as database:
            if database.path is not None and not database.path.exists():
                return Finding("ok", f"{database.shown_address}, created at the first start")
            with database.read() as session:
                session.execute(sa.text("SELECT 1"))
            return Finding("ok", database.shown_address)
    except NotReady as error:
        return Finding("fail", error.message)
    except sa.exc.DBAPIError as error:
        return Finding(
            "fail", f"{database.shown_address}: {error.orig}", "Start it, or set THUMBLOOP_DATABASE_URL."
        )


def check_deployed(settings: Settings) -> Finding:
    """Whether the database and the data directory belong together, and the deployed version is intact."""
    if check_database(settings).status == "fail":
        return Finding("warn", "unknown", "Fix the database first.")
    artifacts = Artifacts(settings.data_dir)
    with closing(Database(settings.database_address)) as database:
        installation = version = None
        try:
            if database.path is None or database.path.exists():
                # A new one has no tables.
                with contextlib.suppress(sa.exc.DBAPIError), database.read() as session:
                    installation = installation_id(session)
                    version = deployed_version(session) if installation else None
            artifacts.check_installation(installation, database.shown_address)
            path = version.path if version is not None else None
            # With a store, a version that is not here yet is fetched when it is served.
            if version is not None and path and (artifacts.folder(path).is_dir() or not settings.artifacts):
                artifacts.verify(path, version.files)
        except (Conflict, NotReady) as error:
            return Finding("fail", f"{version.name} is deployed" if version else "none", error.message)
    return Finding("ok", version.name if version else "v1, from the first start on")


def check_artifacts(settings: Settings) -> Finding:
    """Whether a file can be written to the artifact store, read and removed."""
    if not settings.artifacts:
        return Finding("ok", "adapters and checkpoints are in the data directory")
    probe = new_id()
    try:
        store = ObjectStore(settings.artifacts, settings.artifacts_options, patience=0)
        store.write(probe, probe.encode())
        same = store.read(probe) == probe.encode()
        store.remove(probe)
    except ThumbloopError as error:
        return Finding("fail", settings.artifacts, error.message)
    if not same:
        return Finding("fail", settings.artifacts, "It did not return what was written to it.")
    return Finding("ok", f"{settings.artifacts} can be written to and read")


def check_schedule(settings: Settings) -> Finding:
    if check_database(settings).status == "fail":
        return Finding("warn", settings.schedule or "none", "Fix the database first.")
    with closing(Database(settings.database_address)) as database:
        try:
            schedule = Schedule(database, settings)
            new = database.path is not None and not database.path.exists()
            text = f"`{settings.schedule}`; nothing was due yet." if new else schedule.describe()
        except NotReady as error:
            return Finding("fail", settings.schedule, error.message)
        times = ", ".join(map(shown_time, schedule.next_times(SHOWN_TIMES)))
        return Finding("ok", f"{text} Next: {times}." if times else text)


def check_executor(settings: Settings) -> Finding:
    """Whether a run's trainer can be started where the settings say."""
    try:
        executor = open_executor(settings)
        if not isinstance(executor, ClusterExecutor):
            return Finding("ok", settings.executor)
        executor.find(NO_RUN)  # which asks the cluster
    except BadSetting as error:
        return Finding("fail", settings.executor, error.message)
    except ClusterAway as error:
        return Finding("fail", settings.executor, str(error))
    if settings.database_address.startswith("sqlite"):
        remedy = "Jobs on other machines need PostgreSQL: set THUMBLOOP_DATABASE_URL (docs/cluster.md)."
        return Finding("warn", f"{settings.executor}, with the database in a file", remedy)
    return Finding("ok", settings.executor)


def check_guard(settings: Settings) -> Finding:
    """Which limits keep a few people from changing the model; a warning if one account can."""
    if settings.auth == "accounts" and guard_limits(settings).min_voters < 2:
        return Finding(
            "warn", describe_guard(settings), "One account can train a version: raise THUMBLOOP_MIN_VOTERS."
        )
    return Finding("ok", describe_guard(settings))


def check_model(settings: Settings) -> Finding:
    from trainer.model.base_model import PACKAGE, resolve

    if settings.model == DEFAULT_MODEL:
        converted = (settings.data_dir / "models" / DEFAULT_MODEL).is_dir()
        if not converted and importlib.util.find_spec(PACKAGE) is not None:
            return Finding("ok", f"{DEFAULT_MODEL}, converted at the first start")
    elif not Path(settings.model).is_dir() and _would_download(settings.model):
        return Finding("warn", f"{settings.model} is not downloaded yet", "The first start downloads it.")
    try:
        source = resolve(settings)
    except NotReady as error:
        return Finding("fail", settings.model, error.message)
    return Finding("ok", f"{source.name} in {source.folder}, context of {source.max_context} tokens")


def _would_download(name: str) -> bool:
    """Whether this may be a Hugging Face Hub id that is not in the local cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return not isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def check_backend(settings: Settings) -> Finding:
    from app.serving.openai.client import ModelServer
    from app.serving.openai.vllm import loads_adapters

    if settings.backend == "local":
        return Finding("ok", "this process generates replies")

    async def look() -> tuple[list[str], bool]:
        server = ModelServer(settings.openai_base_url, settings.openai_api_key, SERVER_SECONDS)
        try:
            names = [model["id"] for model in await server.models(SERVER_SECONDS)]
            return names, await loads_adapters(server, SERVER_SECONDS)
        finally:
            await server.close()

    place = f"{settings.openai_model} on {settings.openai_base_url}"
    try:
        names, loads = asyncio.run(look())
    except ThumbloopError as error:
        return Finding("fail", place, error.message)
    if settings.openai_model not in names:
        known = ", ".join(names[:SHOWN_NAMES]) or "none"
        return Finding(
            "warn", f"{place}, which does not list it", f"THUMBLOOP_OPENAI_MODEL: it lists {known}."
        )
    if not loads:
        remedy = "New versions need vLLM with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora."
        return Finding("warn", f"{place}, which loads no adapters", remedy)
    return Finding("ok", f"{place}, which loads adapters")


def check_port(settings: Settings) -> Finding:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.settimeout(2)
        taken = settings.port and probe.connect_ex((settings.host, settings.port)) == 0
    address = f"{settings.host}:{settings.port}"
    if taken:
        return Finding("warn", f"{address} is in use", "If not by Thumbloop, set THUMBLOOP_PORT.")
    return Finding("ok", f"{address} is free")


def check_chromium(_: Settings) -> Finding:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found:
        return Finding("ok", found)
    return Finding("warn", "no Chromium", "Only the browser tests need it: apt-get install chromium.")


CHECKS: tuple[Callable[[Settings], Finding], ...] = (
    *(check_python, check_torch, check_precision, check_memory, check_data, check_database),
    *(check_deployed, check_artifacts, check_schedule, check_executor, check_guard, check_model),
    *(check_backend, check_port, check_chromium),
)
