"""Schemathesis sends to every route of a real server what the API description allows, and what it does not.

No answer may be a server error, and every answer must be one that the description names, in its shape.
"""

import hypothesis
import pytest

from tests.support import http_loop
from tests.support.live_server import LiveServer
from tests.support.rest import new_chat, send

FEW = 2  # of what makes a reply, trains or streams: each takes a model's time
MANY = 8
SLOW = ("/messages", "/regenerate", "/chat/completions", "/training-runs", "/events", "/deploy", "/rollback")
"""Routes whose every request costs a moment of a model; not left out, only asked less often."""


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


@pytest.mark.parametrize("real", [True, False], ids=["real ids", "generated ids"])
@pytest.mark.parametrize("role", ["admin", "user"])
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
    operations = 0
    failures: list[BaseException] = []
    for result in description.get_all_operations():
        operation = result.ok()
        if real and ("{" not in operation.path or operation.method == "delete"):
            continue

        @hypothesis.settings(
            max_examples=FEW if operation.path.endswith(SLOW) else MANY,
            derandomize=True,
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
