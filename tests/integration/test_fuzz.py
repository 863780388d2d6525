"""Mutations of real requests for every route, on both engines, twice: whatever comes, the server stands.

No answer may be a server error but a documented 503, the log may hold no traceback, and the second pass may
not need more memory than the first. THUMBLOOP_TEST_FUZZ_EXAMPLES says how many mutations of each request each
pass sends; `make fuzz` asks for 100, with another seed each time.
"""

import json
import os
import random
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import hypothesis
import psutil
import pytest

from storage.db.database import Database
from tests.support import http_loop
from tests.support.fuzzed_requests import Request, exchange, mutated, real_requests
from tests.support.live_server import LiveServer, StartServer
from tests.support.programs import run_command

GIVEN = os.environ.get("THUMBLOOP_TEST_FUZZ_EXAMPLES")
EXAMPLES = int(GIVEN or 3)
DOCUMENTED = ("busy", "database_unavailable", "not_ready")
MOST_GROWTH = 64 * 1024 * 1024  # of the second pass: what allocators keep varies by about this much


class Watch:
    """What the server's log says since the last look."""

    def __init__(self, server: LiveServer) -> None:
        self._log = server.log
        self._seen = 0

    def tracebacks(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._seen)
            new = log.read()
        self._seen += len(new)
        found = new.find(b"Traceback")
        return new[max(found - 500, 0) : found + 6000].decode(errors="replace") if found >= 0 else ""


@pytest.fixture
def server(start_server: StartServer, database_url: str) -> LiveServer:
    auth = "anonymous" if database_url.startswith("sqlite") else "accounts"
    options = {
        "max_new_tokens": 4,
        "webhook_url": "http://127.0.0.1:9/",
        "webhook_secret": "whsec_" + "A" * 32,
    }
    return start_server(database_url=database_url, auth=auth, **options)


@pytest.mark.both_engines
@pytest.mark.timeout(300 + 60 * EXAMPLES)
def test_no_mutation_of_a_real_request_is_a_server_error(server: LiveServer) -> None:
    assert server.process is not None
    begin = random.SystemRandom().randrange(10**9) if GIVEN else 0
    process, watch, memory = psutil.Process(server.process.pid), Watch(server), []
    with closing(Database(server.settings.database_address)) as database, server.client() as client:

        def call(method: str, path: str, cookies: str | None = None, **options: Any) -> Any:
            if cookies is not None:
                options["headers"] = {"Authorization": "", "Cookie": f"thumbloop_session={cookies}"}
            return http_loop.checked(client.request(method, path, **options))

        for number in range(2):
            found = real_requests(database, server.settings, call, number)
            assert_every_route_is_there(found, call("GET", "/openapi.json"))
            problems = [
                problem
                for place, request in enumerate(found, begin + number * len(found))
                for problem in fuzz(server, request, watch, seed=place)
            ]
            assert not problems, f"begun with seed {begin}\n\n" + "\n\n".join(problems)
            memory.append(process.memory_info().rss)
        reply = http_loop.chat_once(client, "Still there?")
        assert reply["finish_reason"] in ("stop", "length")
    assert memory[1] - memory[0] < MOST_GROWTH, memory
    assert not watch.tracebacks()
    checked = run_command("doctor", environment=server.environment)
    assert checked.returncode == 0, checked.stdout


def assert_every_route_is_there(requests: list[Request], description: dict[str, Any]) -> None:
    for template, operations in description["paths"].items():
        path = re.compile(re.sub(r"\{\w+\}", "[^/]+", template))
        for method in operations:
            known = [each for each in requests if path.fullmatch(each.path) and each.method == method.upper()]
            assert known, f"no real request for {method.upper()} {template}"


def fuzz(server: LiveServer, request: Request, watch: Watch, seed: int) -> Iterator[str]:
    """What went wrong with the request as it is and with its mutations."""
    seen: list[Request] = []

    def send(request: Request) -> None:
        seen.append(request)
        answer = exchange(server.settings.port, request)
        if answer.status == 0:
            assert not request.well_framed or request.method == "CONNECT", "no answer"
        elif answer.status >= 500:
            error = json.loads(answer.body)["error"]
            assert answer.status == 503, error
            assert error["code"] in DOCUMENTED, error

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(request=mutated(request))
    def send_mutations(request: Request) -> None:
        send(request)

    for act in (lambda: send(request), send_mutations):
        try:
            act()
        except Exception as failure:
            yield f"{request.name}: {failure!r} at {seen[-1].raw(0)[:1500]!r}"
    traceback = watch.tracebacks()
    if traceback:
        sent = "\n".join(repr(each.raw(0)[:400]) for each in seen)
        yield f"{request.name}: {traceback}\n{sent}"
