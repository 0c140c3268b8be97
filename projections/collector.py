"""The Prometheus side of the views: counters and histograms read from `metrics`, the process's gauges beside them.

The one module that knows prometheus_client. Nothing is counted here: a scrape reads the view, so that
counters survive restarts, and a replay counts nothing twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from domain.errors import LeadlineError
from projections.metrics import BUCKETS, bound_text
from projections.queries import Row, Views
from projections.store import event_time

#: The process's own figures by name, as they are now.
Gauges = Callable[[], dict[str, float]]

COUNTERS = {
    "whatsapp_messages_received_total": ("Messages that a lead's actor has received", ("business",)),
    "ai_intent_detected_total": ("Messages by what the AI said they want", ("intent",)),
    "whatsapp_action_executed_total": ("Actions that ended, and how", ("action", "outcome")),
    "whatsapp_action_compensated_total": ("Actions that were undone", ("action",)),
    "message_duplicate_total": ("Messages that came again", ()),
    "message_dlq_total": ("Dead letters by category, each time one was made", ("category",)),
    "messages_lost_total": ("Entries that the stream dropped unread, at most", ()),
    "stream_rewound_total": ("Streams that came back shorter than they were", ()),
}

HISTOGRAMS = {
    "ai_intent_confidence": "The AI's confidence in the intent it detected",
    "ai_processing_seconds": "How long the AI took for a message, as it said",
    "message_processing_seconds": "From a message's recorded receipt to its completion",
}


class ViewsCollector(Collector):
    """Reads the views at each scrape, in one short transaction each. Any thread."""

    def __init__(
        self,
        views: str | Path,
        gauges: Gauges | None = None,
        last_position: Callable[[], int] | None = None,
    ) -> None:
        """`last_position` is the store's: the projection's lag follows from it."""
        self._views = Views(views)
        self._gauges = gauges
        self._last_position = last_position

    def collect(self) -> Iterable[Metric]:
        try:
            rows = self._views.metrics()
            yield from self._lag()
        except LeadlineError:
            rows = []  # no views yet: a scrape shows zeros and the process's own figures
        yield from metric_families(rows)
        if self._gauges is not None:
            for name, value in self._gauges().items():
                yield GaugeMetricFamily(f"leadline_{name}", name.replace("_", " "), value=value)

    def _lag(self) -> Iterator[Metric]:
        position = self._views.position()
        stopped = float(position.stopped_error is not None)
        yield GaugeMetricFamily(
            "leadline_projection_stopped", "1 where an event stops the views", value=stopped
        )
        if self._last_position is None:
            return
        lag = max(0, self._last_position() - position.position)
        yield GaugeMetricFamily("leadline_projection_lag_events", "Events not in the views yet", value=lag)
        at = event_time(position)
        seconds = (datetime.now(UTC) - at).total_seconds() if lag and at is not None else 0.0
        yield GaugeMetricFamily(
            "leadline_projection_lag_seconds",
            "Age of the views' last event while they are behind",
            value=seconds,
        )


def metric_families(rows: Iterable[Row]) -> Iterator[Metric]:
    """The rows of the `metrics` view as Prometheus has them; what has no row yet is 0."""
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row["name"], []).append(row)
    for name, (help_text, labels) in COUNTERS.items():
        counter = CounterMetricFamily(name, help_text, labels=labels)
        for row in by_name.get(name, [] if labels else [{"labels": {}, "value": 0}]):
            counter.add_metric([row["labels"][label] for label in labels], row["value"])
        yield counter
    for name, help_text in HISTOGRAMS.items():
        yield _histogram(name, help_text, by_name)
    breakers = GaugeMetricFamily("circuit_breaker_state", "0 closed, 1 half-open, 2 open", labels=["breaker"])
    for row in by_name.get("circuit_breaker_state", []):
        breakers.add_metric([row["labels"]["breaker"]], row["value"])
    yield breakers


def _histogram(name: str, help_text: str, by_name: dict[str, list[Row]]) -> Metric:
    found = {row["labels"]["le"]: row["value"] for row in by_name.get(f"{name}_bucket", [])}
    bounds = [*map(bound_text, BUCKETS[name]), "+Inf"]
    total = sum(row["value"] for row in by_name.get(f"{name}_sum", []))
    histogram = HistogramMetricFamily(name, help_text)
    histogram.add_metric([], [(bound, found.get(bound, 0)) for bound in bounds], total / 1_000_000)
    return histogram


class MetricsServer(Struct, frozen=True):
    """`/metrics` over HTTP, on threads of its own."""

    url: str
    stop: Callable[[], None]


def serve(
    views: str | Path,
    port: int,
    gauges: Gauges | None = None,
    last_position: Callable[[], int] | None = None,
    *,
    host: str = "127.0.0.1",
) -> MetricsServer:
    """Serve the metrics; port 0 takes any free one. Raises `LeadlineError` where the port is taken."""
    registry = CollectorRegistry()
    registry.register(ViewsCollector(views, gauges, last_position))
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise LeadlineError(
            f"metrics cannot be served on {host}:{port}: {error.strerror};"
            " --http-port names another, 0 any that is free"
        ) from error
    return MetricsServer(f"http://{host}:{server.server_port}/metrics", lambda: _shut_down(server, thread))


def _shut_down(server: object, thread: threading.Thread) -> None:
    server.shutdown()  # type: ignore[attr-defined]  # a WSGIServer, which the library does not say
    server.server_close()  # type: ignore[attr-defined]  # as above
    thread.join()
