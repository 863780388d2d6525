"""`thumbloop serve`: take the port, load what is served, say what that is, and answer until stopped."""

import logging
import logging.config
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from app.commands.accounts import new_admin_link, page_address
from app.commands.terminal import console, say, shown_time
from storage.errors import BadSetting, NotReady

if TYPE_CHECKING:
    from app.services import Services

# An open page holds a connection for as long as it is open, so waiting longer gains nothing.
SECONDS_TO_FINISH = 5
# What a page asks for by itself all the time; a line for each would bury what people do.
ROUTINE = ("/gradio_api/", "/admin/gradio_api/", "/assets/", "/admin/assets/", "/static/", "/admin/static/")
PROBES = ("/healthz", "/readyz", "/metrics", "/theme.css", "/admin/theme.css", "/favicon.ico")
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"tidy": {"()": "app.commands.serve.TidyAccess"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)-7s %(message)s", "datefmt": "%H:%M:%S"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"level": "WARNING", "handlers": ["stderr"]},
    "loggers": {
        **{name: {"level": "INFO"} for name in ("thumbloop", "app", "trainer", "storage")},
        "uvicorn": {"level": "WARNING"},
        "uvicorn.access": {"level": "INFO", "filters": ["tidy"]},
    },
}


class TidyAccess(logging.Filter):
    """Leaves out what pages and probes ask for by themselves, unless it failed."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            _, _, path, _, status = record.args  # type: ignore[misc]
        except (TypeError, ValueError):
            return True
        routine = str(path).startswith(ROUTINE) or str(path).split("?")[0] in PROBES
        return not routine or int(str(status)) >= 400


def serve() -> None:
    """Start the pages, the API and the schedule; prints the addresses and an admin link."""
    from storage.settings import load_settings

    started = time.monotonic()
    settings = load_settings()
    # Before anything slow: whoever starts Thumbloop twice should know at once.
    with _listen(settings.host, settings.port) as listener:
        say(f"Starting with {settings.model} …")
        logging.config.dictConfig(LOGGING)

        import uvicorn

        from app.auth import check_safe
        from app.server import create_app
        from app.services import build_services

        check_safe(settings)
        services = build_services(settings, progress=say)
        app = create_app(settings, services)

        class Server(uvicorn.Server):
            """Says what it serves as soon as it does."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    _announce(services, listener.getsockname()[1], time.monotonic() - started)

        config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=SECONDS_TO_FINISH)
        server = Server(config)
        # uvicorn raises the signal that stopped it once more, when all is tidied up: that is a good end.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets=[listener])
    if not server.started:
        raise NotReady("The server could not start; the lines above say why.")
    say("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening at once keeps a second server away; until ready, connections wait in the queue.
        listener.listen(2048)
    except OSError as error:
        raise BadSetting(
            f"Cannot listen on {host}:{port} ({error.strerror}); stop the program that does, "
            f"or set THUMBLOOP_PORT or THUMBLOOP_HOST.",
            field="port",
        ) from error
    return listener


def _announce(services: "Services", port: int, seconds: float) -> None:
    settings = services.settings
    address = page_address(settings.host, port)
    with services.database.write() as session:
        link = new_admin_link(session, address)
    source, due = services.source, services.schedule.next_run_time()
    number_format = str(source.dtype).removeprefix("torch.")
    rows = {
        "model": f"{source.name}, {services.deployments.current().name}, {number_format} on {source.device}",
        "database": services.database.shown_address,
        "data": str(settings.data_dir.absolute()),
        "sign-in": "nobody needs to" if settings.auth == "anonymous" else "with accounts",
        "training": services.schedule.describe() + (f" Next: {shown_time(due)}." if due else ""),
        "chat": address,
        "admin": f"{link}  (signs in once)",
        "API": f"{address}/docs",
    }
    table = Table(title=f"Thumbloop is ready after {seconds:.1f} s", title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console.print(table)
    say("Press Ctrl-C to stop.")
    sys.stdout.flush()
