"""Prometheus metrics that are counted as events happen: replies, tokens, swaps, answers.

Labels have few values, all set or bounded by the code: no ids, no people, no text. Metrics that are read at
scrape time are in `collector.py`. Uses neither HTTP nor a database.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

from app.serving.reply import ReplyEnd
from storage.errors import ThumbloopError

SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHORT_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
AREAS = {"/api/": "api", "/v1/": "openai", "/healthz": "health", "/readyz": "health", "/metrics": "health"}

disable_created_metrics()  # type: ignore[no-untyped-call]  # they repeat each counter with its creation time


class Metrics:
    """The counters of one server. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self._first_token = histogram(
            "thumbloop_first_token_seconds",
            "From the request to the first token of its reply, waiting included.",
            buckets=SECONDS,
        )
        self._inter_token = histogram(
            "thumbloop_inter_token_seconds", "Between two pieces of a reply's text.", buckets=SHORT_SECONDS
        )
        self._queue = histogram("thumbloop_queue_seconds", "Time a reply waited to start.", buckets=SECONDS)
        self._tokens = counter("thumbloop_tokens", "Tokens of replies and of their prompts.", ["kind"])
        self._replies = counter("thumbloop_replies", "Replies by how they ended.", ["outcome"])
        self._errors = counter(
            "thumbloop_reply_errors", "Refused messages and failed replies, by the error's code.", ["code"]
        )
        self._swaps = counter("thumbloop_swaps", "Changes of the version that replies.", ["outcome"])
        self._responses = counter("thumbloop_http_responses", "HTTP responses.", ["area", "status"])
        for metric, labels in (
            (self._replies, ("stop", "length", "cancelled", "failed")),
            (self._tokens, ("prompt", "reply")),
            (self._swaps, ("done", "refused")),
        ):
            for label in labels:
                metric.labels(label)  # exported as 0 before the first event

    def piece(self, seconds: float) -> None:
        """Count a delta that came `seconds` after the previous one."""
        self._inter_token.observe(seconds)

    def reply_ended(self, end: ReplyEnd) -> None:
        self._replies.labels(end.finish_reason).inc()
        self._tokens.labels("prompt").inc(end.prompt_tokens)
        self._tokens.labels("reply").inc(end.timings["tokens"])
        self._queue.observe(end.timings["queued_s"])
        if end.timings["first_token_s"] is not None:
            self._first_token.observe(end.timings["first_token_s"])

    def reply_failed(self, error: ThumbloopError) -> None:
        self._replies.labels("failed").inc()
        self.refused(error)

    def refused(self, error: ThumbloopError) -> None:
        """Count a message that got no complete reply."""
        self._errors.labels(error.code).inc()

    def swapped(self, outcome: str) -> None:
        """Count a swap. `done`: another version replies now. `refused`: the deployed one failed to load."""
        self._swaps.labels(outcome).inc()

    def answered(self, path: str, status: int) -> None:
        area = next((area for start, area in AREAS.items() if path.startswith(start)), "pages")
        self._responses.labels(area, str(status)).inc()
