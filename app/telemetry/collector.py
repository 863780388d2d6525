"""Prometheus metrics that are read at each scrape: occupancy, slots, the deployed version, runs, votes."""

import threading
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.serving.backend import Backend
from storage.chats import stats, votes
from storage.db.database import Database
from storage.registry import model_versions, training_runs


class StateCollector(Collector):
    """Reads the backend and the database. Counts the votes of all processes since it was made."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._backend = backend
        self._lock = threading.Lock()  # guards the fields below
        with database.read() as session:
            self._seen = votes.latest_event_id(session)
        self._votes = Counter(up=0, down=0, taken_back=0)

    def collect(self) -> Iterator[Metric]:
        occupancy = self._backend.occupancy()
        with self._lock, self._database.read() as session:
            deployed = model_versions.deployed_version(session)
            runs = training_runs.count_by_state(session)
            latest = votes.latest_event_id(session)
            self._votes.update(stats.count_events(session, self._seen, latest))
            self._seen = latest
            cast = dict(self._votes)
        for name, about, value in (
            ("thumbloop_replies_running", "Replies that are being generated.", occupancy.running),
            ("thumbloop_replies_waiting", "Replies that wait to start.", occupancy.waiting),
            ("thumbloop_slots", "Versions that are loaded.", len(self._backend.loaded())),
            ("thumbloop_deployed_version", "The number of the deployed version.", deployed.number),
        ):
            yield GaugeMetricFamily(name, about, value)
        by_state = GaugeMetricFamily("thumbloop_training_runs", "Training runs by state.", labels=["state"])
        for state, number in runs.items():
            by_state.add_metric([state], number)
        yield by_state
        by_kind = CounterMetricFamily(
            "thumbloop_votes", "Votes that were cast, changed or taken back.", labels=["vote"]
        )
        for kind, number in cast.items():
            by_kind.add_metric([kind], number)
        yield by_kind
