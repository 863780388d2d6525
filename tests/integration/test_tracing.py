"""Spans of requests and replies, as a collector of OpenTelemetry's protocol receives them."""

import gzip
import sys

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.telemetry.tracing import Tracing
from storage.errors import BadSetting
from tests.support.live_server import LiveServer, StartServer, get
from tests.support.programs import free_port
from tests.support.webhook_receiver import receiving

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "nobody-shall-read-this"


def ask(server: LiveServer, **headers: str) -> None:
    with server.client("user") as client:
        answer = client.post(
            f"/v1/chat/completions?q={SECRET}",
            json={"model": "deployed", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4},
            headers=headers,
        )
        assert answer.status_code == 200, answer.text
        assert get(f"{server.url}/readyz").status_code == 200


def test_a_reply_is_a_span_below_its_request_and_no_text_is_sent(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "our-chat")
        server = start_server(opentelemetry=True)
        ask(server, traceparent=f"00-{TRACE}-{CALLER}-01", **{"X-Request-ID": "request-7"})
        assert server.stop() == 0
    received = [
        gzip.decompress(one.body) if one.headers.get("content-encoding") == "gzip" else one.body
        for one in collector.received
    ]
    assert SECRET.encode() not in b"".join(received)
    resources = [
        one for body in received for one in ExportTraceServiceRequest.FromString(body).resource_spans
    ]
    names = {
        a.value.string_value for one in resources for a in one.resource.attributes if a.key == "service.name"
    }
    assert names == {"our-chat"}
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    assert not [span for span in spans if "readyz" in span.name]
    (request,) = [span for span in spans if span.name == "POST /v1/chat/completions"]
    (reply,) = [span for span in spans if span.name == "reply"]
    assert request.trace_id.hex() == reply.trace_id.hex() == TRACE
    assert (request.parent_span_id.hex(), reply.parent_span_id) == (CALLER, request.span_id)
    header = next(a for a in request.attributes if a.key == "http.response.header.x_request_id")
    assert "request-7" in str(header.value)
    attributes = {a.key: a.value for a in reply.attributes}
    assert attributes["gen_ai.response.model"].string_value == "v1"
    assert 1 <= attributes["gen_ai.usage.output_tokens"].int_value <= 4
    assert attributes["gen_ai.usage.input_tokens"].int_value > 4
    times = [reply.start_time_unix_nano, *(event.time_unix_nano for event in reply.events)]
    assert [event.name for event in reply.events] == ["left the line", "first token"]
    assert times == sorted(times)
    assert times[-1] <= reply.end_time_unix_nano


def test_replies_come_and_the_server_ends_while_the_collector_is_away(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    server = start_server(opentelemetry=True)
    ask(server)
    assert server.stop() == 0


def test_without_the_packages_the_setting_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadSetting, match=r"pip install 'thumbloop\[opentelemetry\]'"):
        Tracing()
