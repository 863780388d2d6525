"""A `thumbloop serve` of the simulation's own, on a free port, and its API."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import AsyncOpenAI

from app.simulation.prompts import Prompt
from app.simulation.tastes import SimulatedReply
from storage.db.database import open_database
from storage.errors import NotReady
from storage.people.tokens import create_token
from storage.people.users import ensure_user
from storage.settings import Settings, in_environment

ACCOUNT = "simulation"
STARTS_WITHIN = 300.0
POLL_SECONDS = 0.5
# A reply waits for the others in the queue; on a slow machine that takes minutes.
REPLY_SECONDS = 600.0


class SimulatedServer:
    """The API of a server, for an application whose end users are simulated."""

    def __init__(self, openai: AsyncOpenAI, http: httpx.AsyncClient) -> None:
        self.openai, self.http = openai, http

    async def reply(
        self,
        prompt: Prompt,
        *,
        person: str,
        model: str = "deployed",
        store: bool = True,
        seed: int | None = None,
    ) -> tuple[str, SimulatedReply]:
        """Ask as a person; returns the message's id and the reply. `store=False` keeps it out of training."""
        answer = await self.openai.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": prompt.text}],
            user=person,
            store=store,
            seed=seed,
        )
        choice = answer.choices[0]
        finished = choice.finish_reason == "stop"
        text = choice.message.content or ""
        return answer.id, SimulatedReply(prompt.text, prompt.language, prompt.answer, text, finished)

    async def vote(self, message_id: str, label: bool) -> None:
        await self._ask("PUT", f"/api/v1/messages/{message_id}/vote", {"label": label})

    async def train(self, progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Request a run, or follow the active one; returns it once it is over."""
        active = (await self._ask("GET", "/api/v1/training-runs?limit=1"))["items"]
        if active and active[0]["state"] in ("requested", "running"):
            run_id = active[0]["id"]
        else:
            run_id = (await self._ask("POST", "/api/v1/training-runs", {"force": True}))["id"]
        while True:
            run: dict[str, Any] = await self._ask("GET", f"/api/v1/training-runs/{run_id}")
            if run["state"] not in ("requested", "running"):
                return run
            progress({"phase": "waiting for the trainer", **run["progress"]})
            await asyncio.sleep(POLL_SECONDS)

    async def deployed(self) -> str:
        versions = (await self._ask("GET", "/api/v1/model-versions"))["items"]
        return next(str(version["name"]) for version in versions if version["deployed"])

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.http.request(method, path, json=body)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
            return await self._ask(method, path, body)
        if answer.is_error:
            raise NotReady(f"{method} {path} answered {answer.status_code}: {answer.text[:300]}")
        return answer.json()


@asynccontextmanager
async def started_server(settings: Settings, log: Path) -> AsyncIterator[SimulatedServer]:
    """Start a server with these settings and stop it at the end. Raises NotReady with the end of its log."""
    with closing(open_database(settings)) as database, database.write() as session:
        token = create_token(session, ensure_user(session, ACCOUNT, "admin").id, name=ACCOUNT)[1]
    port = _free_port()
    values = settings.model_dump(mode="json", exclude_unset=True) | {"host": "127.0.0.1", "port": port}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("THUMBLOOP_")}
    url = f"http://127.0.0.1:{port}"
    pid_file = log.with_suffix(".pid")
    _end_leftover(pid_file)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=clean | in_environment(values),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    pid_file.write_text(str(process.pid))
    headers = {"Authorization": f"Bearer {token}"}
    openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=20, timeout=REPLY_SECONDS)
    try:
        async with openai, httpx.AsyncClient(base_url=url, headers=headers, timeout=REPLY_SECONDS) as http:
            await _wait_ready(http, process, log)
            yield SimulatedServer(openai, http)
    finally:
        process.terminate()
        process.wait()
        pid_file.unlink()


def _end_leftover(pid_file: Path) -> None:
    """End the server of a simulation that was killed; a second one could not open the database."""
    with suppress(OSError, ValueError, psutil.Error):
        leftover = psutil.Process(int(pid_file.read_text()))
        if leftover.cmdline()[-1:] == ["serve"]:  # otherwise the number belongs to another program now
            leftover.kill()
            leftover.wait()


async def _wait_ready(http: httpx.AsyncClient, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(int(STARTS_WITHIN / POLL_SECONDS)):
        if process.poll() is not None:
            break
        try:
            if (await http.get("/readyz")).is_success:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(POLL_SECONDS)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise NotReady(f"The server did not start; {log} ends with: {' '.join(last)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
