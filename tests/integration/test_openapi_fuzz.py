"""Schemathesis sends to every route of a real server what the API description allows, and what it does not.

No answer may be a server error, every answer must be one that the description names, in its shape, and the
log may hold no traceback. With THUMBLOOP_TEST_FUZZ_EXAMPLES (`make fuzz`) each of these is asked on both
engines; without it, on one.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import hypothesis
import pytest

from storage.db.database import Database
from tests.support import http_loop
from tests.support.databases import new_postgres_database
from tests.support.fuzzed_requests import sign_up
from tests.support.live_server import LiveServer
from tests.support.rest import new_chat, send

GIVEN = os.environ.get("THUMBLOOP_TEST_FUZZ_EXAMPLES")
FEW = int(GIVEN or 8) // 4  # of what makes a reply, trains or streams: each takes a model's time
MANY = int(GIVEN or 8)
CASES = [
    (engine, role, real)
    for engine in ("sqlite", "postgresql")
    for role in ("admin", "user")
    for real in (True, False)
    if GIVEN or (engine == "sqlite") == ((role == "admin") == real)
]
SLOW = ("/messages", "/regenerate", "/chat/completions", "/training-runs", "/events", "/deploy", "/rollback")
"""Routes whose every request costs a moment of a model; not left out, only asked less often."""


@pytest.fixture(scope="module")
def shared_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[LiveServer]:
    settings = {"data_dir": tmp_path_factory.mktemp("fuzzed") / "data", "model": tiny_model}
    with ExitStack() as stack:
        if request.param == "postgresql":
            address = request.getfixturevalue("postgres_url")
            settings["database_url"] = stack.enter_context(new_postgres_database(address))
        yield stack.enter_context(LiveServer(settings))


@pytest.fixture(scope="module")
def real_ids(shared_server: LiveServer) -> dict[str, dict[str, str]]:
    """Ids of things that are there, by role and path parameter: generated ones find nothing."""
    found = {}
    for role in ("admin", "user"):
        with shared_server.client(role) as client:
            chat_id = new_chat(client)
            reply = send(client, chat_id)
            me = http_loop.checked(client.get("/api/v1/me"))["id"]
            found[role] = {"chat_id": chat_id, "message_id": reply["id"], "user_id": me, "version": "v1"}
    with shared_server.client() as client:
        run_id = http_loop.request_run(client)
        http_loop.wait_for_run(shared_server, client, run_id)
        found["admin"]["run_id"] = run_id
    return found


@pytest.mark.timeout(300 + 30 * MANY)
@pytest.mark.parametrize(("shared_server", "role", "real"), CASES, indirect=["shared_server"])
def test_every_answer_is_one_that_the_description_names(
    shared_server: LiveServer,
    real_ids: dict[str, dict[str, str]],
    role: str,
    real: bool,
) -> None:
    # Seconds of importing, which other test processes need not wait for.
    import schemathesis
    from schemathesis import Case, GenerationMode, checks
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks as conformance

    checked = [
        checks.not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_headers_conformance,
        conformance.response_schema_conformance,
    ]
    description = schemathesis.openapi.from_url(f"{shared_server.url}/openapi.json")
    headers = {"Authorization": f"Bearer {shared_server.token(role)}"}
    if role == "admin" and real:  # as a browser does
        with closing(Database(shared_server.settings.database_address)) as database:
            headers = {"Cookie": f"thumbloop_session={sign_up(database, role, role).cookie}"}
    operations = 0
    failures: list[BaseException] = []
    for result in description.get_all_operations():
        operation = result.ok()
        if real and ("{" not in operation.path or operation.method == "delete"):
            continue

        @hypothesis.settings(
            max_examples=FEW if operation.path.endswith(SLOW) else MANY,
            derandomize=GIVEN is None,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
            | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)
        )
        def ask(case: Case) -> None:
            if real:
                case.path_parameters.update(
                    {name: value for name, value in real_ids[role].items() if name in case.path_parameters}
                )
            case.call_and_validate(headers=headers, checks=checked, timeout=60)

        try:
            ask()
        except (Exception, FailureGroup) as failure:  # all routes are asked before any is complained of
            failures.append(failure)
        operations += 1
    if failures:
        raise BaseExceptionGroup("answers that the description does not name", failures)
    assert operations > (8 if real else 30)
    assert "Traceback" not in shared_server.log.read_text()
