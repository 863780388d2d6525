"""Schemathesis sends to every route of a real server what the API description allows, and what it does not.

No answer may be a server error, every answer must be one that the description names, in its shape, and the
log may hold no traceback. With THUMBLOOP_TEST_FUZZ_EXAMPLES (`make fuzz`) each of these is asked on both
engines; without it, on one. Chains of requests take ids from the answers before.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

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
ENGINES = ("sqlite", "postgresql")
CASES = [
    (engine, role, real)
    for engine in ENGINES
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


# With real ids these end the secret that the test asks with; the other tests have them.
OWN = ["/api/v1/tokens/{token_id}", "/api/v1/users/{user_id}"]


def what_is_promised(server: LiveServer) -> tuple[Any, list[Any]]:
    """The API's description, and the checks of an answer against it."""
    import schemathesis
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as conformance

    return schemathesis.openapi.from_url(f"{server.url}/openapi.json"), [
        checks.not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_headers_conformance,
        conformance.response_schema_conformance,
    ]


@pytest.mark.timeout(300 + 30 * MANY)
@pytest.mark.parametrize(("shared_server", "role", "real"), CASES, indirect=["shared_server"])
def test_every_answer_is_one_that_the_description_names(
    shared_server: LiveServer,
    real_ids: dict[str, dict[str, str]],
    role: str,
    real: bool,
) -> None:
    # Seconds of importing, which other test processes need not wait for.
    from schemathesis import Case, GenerationMode
    from schemathesis.core.failures import FailureGroup

    description, checked = what_is_promised(shared_server)
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
        if real and operation.path in OWN:
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


@pytest.mark.timeout(300 + 30 * MANY)
@pytest.mark.parametrize("shared_server", ENGINES if GIVEN else ENGINES[:1], indirect=True)
def test_chains_of_requests_that_use_what_the_answers_before_name(
    shared_server: LiveServer, real_ids: dict[str, dict[str, str]]
) -> None:
    """Schemathesis infers from the description which answer names what another request takes."""
    from schemathesis.core.failures import FailureGroup

    description, checked = what_is_promised(shared_server)
    description = description.exclude(path=OWN)
    headers = {"Authorization": f"Bearer {shared_server.token('admin')}"}
    failures: list[BaseException] = []
    followed: set[str] = set()

    class Chain(description.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": headers, "timeout": 60}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            try:
                case.validate_response(response, checks=checked)
            except FailureGroup as failure:  # a chain goes on, as it would not fail again in the same way
                failures.append(failure)

        def step(self, given: Any) -> Any:
            outcome = super().step(given)
            if given.applied_parameters and outcome is not None and outcome.response.status_code < 300:
                followed.add(given.transition.id)
            return outcome

    for seed in range(MANY):
        # The server remembers, so a repeated beginning may go on otherwise, which ends a run.
        with suppress(hypothesis.errors.Flaky):
            hypothesis.seed(seed)(Chain).run(
                settings=hypothesis.settings(
                    max_examples=3,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    phases=[hypothesis.Phase.generate],
                    suppress_health_check=list(hypothesis.HealthCheck),
                )
            )
    if failures:
        raise BaseExceptionGroup("answers that the description does not name", failures)
    assert len(followed) > 20, followed
    assert "Traceback" not in shared_server.log.read_text()
