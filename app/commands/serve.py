"""`thumbloop serve`: binds the port, loads the model, prints the addresses, and serves until stopped."""

import contextlib
import errno
import logging
import logging.config
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import OperationalError

from app.commands.accounts import new_admin_link, site_here
from app.commands.terminal import console, no_answer, say, shown_time
from storage.errors import BadSetting, Conflict, ThumbloopError
from storage.registry.model_versions import deployed_version
from storage.settings import Settings, load_settings
from storage.settings.guard import describe_guard, guard_limits
from trainer.launch.environment import loading

if TYPE_CHECKING:
    from app.services import Services

# An open page holds a connection for as long as it is open, so waiting longer gains nothing.
SECONDS_TO_FINISH = 5
MOST_CONNECTIONS = 10_000
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "tidy": {"()": "app.commands.serve.TidyAccess"},
        "request": {"()": "app.telemetry.request_ids.RequestIdFilter"},
    },
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(message)s%(request)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request"]},
    },
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {
        **{name: {"level": "INFO"} for name in ("thumbloop", "app", "trainer", "storage")},
        "uvicorn": {"level": "WARNING"},
        "uvicorn.access": {"level": "INFO", "filters": ["tidy"]},
    },
}


class TidyAccess(logging.Filter):
    """Access lines without query strings, which may hold tokens, and without the pages' own traffic."""

    QUIET = (
        *("/gradio_api/", "/assets/", "/static/", "/svelte/", "/theme.css"),
        *("/healthz", "/readyz", "/metrics"),
    )

    def filter(self, record: logging.LogRecord) -> bool:
        assert isinstance(record.args, tuple)  # uvicorn's: client, method, address, HTTP version, status
        client, method, address, protocol, status = record.args
        path = str(address).partition("?")[0]
        record.args = (client, method, path, protocol, status)
        return int(str(status)) >= 400 or not path.removeprefix("/admin").startswith(self.QUIET)


class OneLineFailure:
    """Wraps the application and keeps an expected startup error; uvicorn would log its traceback."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application
        self.error: ThumbloopError | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watching(message: Any) -> None:
            error = sys.exception()  # Starlette sends this inside its `except` block
            if isinstance(error, OperationalError):
                error = no_answer(error)
            if message["type"] == "lifespan.startup.failed" and isinstance(error, ThumbloopError):
                self.error = error
                message = {"type": message["type"]}
            await send(message)

        await self.application(scope, receive, watching if scope["type"] == "lifespan" else send)


def serve() -> None:
    """Start the pages, the API and the schedule; prints the addresses.

    With THUMBLOOP_AUTH=anonymous and a terminal it also prints an admin link.
    """
    from app.web.auth import check_safe

    started = time.monotonic()
    settings = load_settings()
    check_safe(settings)
    # Before anything slow, so that a second start of Thumbloop fails at once.
    with _listen(settings.host, settings.port) as listener:
        say(f"Starting with {settings.model} …")
        with loading():
            import uvicorn

            from app.server import create_app
            from app.services import build_services
            from app.web.connections import BoundedConnection

        try:
            services = build_services(settings, say)
        except OperationalError as error:
            raise no_answer(error) from error
        application = OneLineFailure(create_app(settings, services))
        logging.config.dictConfig(LOGGING)
        address = site_here(settings, listener.getsockname()[1])

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                """Let replies end before the server stops. A second signal, and Ctrl-C, cut them."""
                patient = sig == signal.SIGTERM and not services.chat_service.draining
                seconds = settings.drain_seconds if patient else 0
                # In a thread, because the main one may hold the service's lock just now.
                threading.Thread(target=self.drain, args=[sig, seconds], daemon=True).start()

            def drain(self, sig: int, seconds: int) -> None:
                services.chat_service.drain(seconds)
                super().handle_exit(sig, None)

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    _print_summary(services, address, time.monotonic() - started)

        config = uvicorn.Config(
            application,
            log_config=None,
            http=BoundedConnection,
            ws="none",  # nothing here speaks WebSocket, and a request to upgrade that has a body would hang
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
            forwarded_allow_ips=settings.trusted_proxies,
            limit_concurrency=most_connections(raise_file_limit()),
        )
        try:
            Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # Ctrl-C is the normal way to stop
            pass
        except SystemExit:  # uvicorn's, after a failed start: it would end the program without a reason
            if application.error is None:
                raise
    if application.error is not None:
        raise application.error


def raise_file_limit() -> int:
    """Raise this process's limit of open files to the most that it may have; returns the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else MOST_CONNECTIONS * 2


def most_connections(files: int) -> int:
    """How many connections to hold at once; the other files are for the database and the models."""
    return min(max(files // 2, 64), MOST_CONNECTIONS)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises BadSetting if the address cannot be bound."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise BadSetting(
            f"THUMBLOOP_HOST={host} cannot be resolved ({error.strerror}); use an address of this machine, "
            f"such as 127.0.0.1.",
            field="host",
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the last server's connections may linger
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = (
                f"THUMBLOOP_PORT={port} is in use on {host}: stop the other program, or set another port."
            )
            raise BadSetting(message, field="port") from error
        raise BadSetting(
            f"Thumbloop cannot listen on {host}:{port} ({error.strerror}); "
            f"set THUMBLOOP_HOST and THUMBLOOP_PORT.",
            field="host",
        ) from error
    return listener


def _print_summary(services: "Services", address: str, seconds: float) -> None:
    settings, source = services.settings, services.source
    replies = f"{settings.openai_model} on {settings.openai_base_url}"
    if settings.backend == "local" and source is not None:
        precision = str(source.dtype).removeprefix("torch.")
        replies = f"{source.name}, {precision} on {source.device.type}"
    with services.database.read() as session:
        deployed = deployed_version(session)
    answers = f"{deployed.name} answers"
    with contextlib.suppress(ThumbloopError):  # no model is loaded yet
        if (served := services.deployments.current().name) != deployed.name:
            answers = f"{served} answers; {deployed.name} is deployed and could not be loaded, see above"
    due = shown_time(services.schedule.next_run_time())
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in {
        "Model": f"{replies}; {answers}",
        "Database": services.database.shown_address,
        "Data": str(settings.data_dir.absolute()),
        **({"Artifacts": settings.artifacts} if settings.artifacts else {}),
        "Schedule": f"{services.schedule.describe()} {f'Next: {due}.' if due else ''}",
        "Sign-in": "none: everybody who opens the page may chat"
        if settings.auth == "anonymous"
        else "accounts",
        "Guard": describe_guard(settings),
        "Started in": f"{seconds:.1f} s",
    }.items():
        table.add_row(name, Text(value))
    console.print(table)
    admin = "`thumbloop admin-link` prints a link that signs in once"
    # Elsewhere the output goes to a log that others read.
    if settings.auth == "anonymous" and sys.stdout.isatty():
        try:
            with services.database.write() as session:
                admin = f"{new_admin_link(session, address)}   (signs in once)"
        except Conflict as error:  # the account `admin` is not an admin
            admin = f"no link: {error.message}"
    # Not in a table, so that each stays on one line and the terminal makes it a link.
    say(f"Chat    {address}/\nAPI     {address}/docs\nAdmin   {admin}\n")
    if (notice := trust_notice(settings)) is not None:
        say(f"{notice}\n")
    say("Ctrl-C stops it.")


def trust_notice(settings: Settings) -> str | None:
    """What an administrator of several accounts should know, if one of them alone can change the model."""
    if settings.auth != "accounts" or guard_limits(settings).min_voters > 1 or not settings.auto_deploy:
        return None
    return (
        "Notice  The votes of one account can train a version, and it is deployed without an admin: raise "
        "THUMBLOOP_MIN_VOTERS, set THUMBLOOP_MAX_ROWS_PER_PERSON, or turn THUMBLOOP_AUTO_DEPLOY off."
    )
