"""Optional OpenTelemetry traces: a span for each request and one for the reply that it asked for.

OpenTelemetry's own variables (OTEL_…) set the destination and the server's name. No span contains a text or
a URL's query. The packages are an extra and are imported only here.
"""

import os
import time
from typing import Any

from fastapi import FastAPI

from app.serving.reply import ReplyEnd
from app.telemetry.request_ids import HEADER
from storage.errors import BadSetting

LEFT_OUT = "/healthz,/readyz,/metrics,/gradio_api/(heartbeat|queue/data)"  # requested every few seconds


class Tracing:
    """Sends spans from its own thread, so a collector that is down delays no request."""

    def __init__(self) -> None:
        """Raises BadSetting if the packages are missing."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise BadSetting(
                "THUMBLOOP_OPENTELEMETRY=true: that takes packages that are not installed; "
                "run pip install 'thumbloop[opentelemetry]'.",
                field="opentelemetry",
            ) from error
        name = os.environ.get("OTEL_SERVICE_NAME", "thumbloop")
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("thumbloop")

    def watch(self, app: FastAPI) -> None:
        """Trace each request to the app, as a child of the caller's span if it sent a `traceparent`."""
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.metrics import NoOpMeterProvider

        FastAPIInstrumentor.instrument_app(
            app,
            server_request_hook=_without_query,
            tracer_provider=self._provider,
            meter_provider=NoOpMeterProvider(),
            excluded_urls=LEFT_OUT,
            http_capture_headers_server_response=[HEADER],
            exclude_spans=["receive", "send"],  # one for each chunk of a stream
        )

    def reply_ended(self, version: str, end: ReplyEnd) -> None:
        """Record a span for a complete reply, as a child of the current request's span."""
        ended, timings = time.time_ns(), end.timings
        began = ended - _nanoseconds(timings["total_s"])
        span = self._tracer.start_span(
            "reply",
            start_time=began,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.response.model": version,
                "gen_ai.response.finish_reasons": [end.finish_reason],
                "gen_ai.usage.input_tokens": end.prompt_tokens,
                "gen_ai.usage.output_tokens": timings["tokens"],
            },
        )
        span.add_event("left the line", timestamp=began + _nanoseconds(timings["queued_s"]))
        if timings["first_token_s"] is not None:
            span.add_event("first token", timestamp=began + _nanoseconds(timings["first_token_s"]))
        span.end(ended)

    def stop(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def _without_query(span: Any, scope: dict[str, Any]) -> None:
    if span.is_recording():
        span.set_attributes({name: scope["path"] for name in ("http.target", "http.url", "url.path")})
        span.set_attribute("url.query", "")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
