"""The view `metrics`: counters and histograms that survive restarts, since they follow from the events.

Integers only [H22]: seconds are summed as microseconds and confidences as millionths, under names that end in
`_sum`; `projections/collector.py` converts them. Buckets are cumulative, as Prometheus has them, and each
observation is counted once, by the event that holds it. Labels that a publisher can choose are bounded.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import accumulate
from typing import TypeAlias, TypeVar

from msgspec import Struct

from domain import events as ev
from domain.events import Recorded
from projections import schema
from projections.rows import Folds, Needs, Owner, Rows

#: Bounds of the histograms' buckets, in millionths of their unit; the bucket `+Inf` comes on top.
SECONDS = (1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000)
MORE_SECONDS = (1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 600_000_000)
BUCKETS: dict[str, tuple[int, ...]] = {
    "ai_intent_confidence": tuple(tenth * 100_000 for tenth in range(1, 11)),
    "ai_processing_seconds": (*SECONDS, *MORE_SECONDS),
    "message_processing_seconds": (*SECONDS, *MORE_SECONDS, 3_600_000_000, 86_400_000_000),
}

#: A publisher's number may be absurd: one observation counts as a day at most, a sum stops at 63 bits [H17].
LONGEST_US = 86_400_000_000
MAX_VALUE = 2**63 - 1

#: A publisher may invent intents: after so many different ones, the others share one label.
MAX_INTENTS = 200
OTHER_INTENTS = "(other)"

BREAKER_STATES = {"closed": 0, "half_open": 1, "open": 2}

N = TypeVar("N", bound=float)

#: Names and values in turn, names sorted.
Labels: TypeAlias = tuple[str, ...]


class MetricRow(Struct, gc=False):
    name: str
    labels: str
    value: int


class Metrics:
    """Folds the view. The table is small, and kept whole between batches."""

    def __init__(self) -> None:
        self._rows = Rows(schema.metrics, MetricRow, whole=True)
        self.tables = (self._rows,)
        #: What the batch adds to the rarer counters, and the last state of each breaker.
        self._counted: defaultdict[tuple[str, Labels], int] = defaultdict(int)
        self._states: dict[str, int] = {}
        # Of what each message brings, one a time: counted once a batch, by the interpreter's own code.
        self._businesses: list[str] = []
        self._intents: list[str] = []
        self._done: list[str] = []
        self._confidences: list[float] = []
        self._latencies_ms: list[float] = []
        self._processing_us: list[int] = []
        #: Labels as the view keeps them: the same few each time.
        self._texts: dict[Labels, str] = {}
        self.needs: Needs = {}
        self.folds: Folds = {
            ev.MessageReceived: self._received,
            ev.DuplicateDetected: self._duplicate,
            ev.IntentDetected: self._intent,
            ev.ActionExecuted: self._executed,
            ev.ActionFailed: self._failed,
            ev.ActionCompensated: self._compensated,
            ev.MessageCompleted: self._completed,
            ev.MessageDeadLettered: self._dead_lettered,
            ev.MessageRejected: self._dead_lettered,
            ev.BreakerOpened: self._opened,
            ev.BreakerHalfOpened: self._half_opened,
            ev.BreakerClosed: self._closed,
            ev.StreamRewound: self._rewound,
            ev.MessagesLost: self._lost,
        }

    def begins(self) -> None:
        """Nothing of an earlier batch is left, also where that failed."""
        self._counted.clear()
        self._states.clear()
        each = (self._businesses, self._intents, self._done)
        for brought in (*each, self._confidences, self._latencies_ms, self._processing_us):
            brought.clear()

    def ends(self) -> None:
        """The batch is folded, and the table is loaded: what it counted goes into the rows."""
        for business, by in Counter(self._businesses).items():
            self._add("whatsapp_messages_received_total", ("business", business), by)
        for action, by in Counter(self._done).items():
            self._add("whatsapp_action_executed_total", ("action", action, "outcome", "done"), by)
        self._observe("ai_intent_confidence", self._confidences, lambda one: round(one * 1_000_000))
        self._observe(
            "ai_processing_seconds", self._latencies_ms, lambda ms: min(LONGEST_US, round(ms * 1000))
        )
        self._observe("message_processing_seconds", self._processing_us, lambda us: max(0, us))
        for (name, labels), by in self._counted.items():
            self._count(name, labels, by)
        for intent, by in Counter(self._intents).items():
            self._count("ai_intent_detected_total", ("intent", self._label_of(intent)), by)
        for breaker, value in self._states.items():
            self._row("circuit_breaker_state", ("breaker", breaker)).value = value

    def _received(self, _: Recorded, event: ev.MessageReceived, owner: Owner, at: str) -> None:
        self._businesses.append(owner[1])
        if event.ai_latency_ms is not None:
            self._latencies_ms.append(event.ai_latency_ms)

    def _duplicate(self, _: Recorded, event: ev.DuplicateDetected, owner: Owner, at: str) -> None:
        self._add("message_duplicate_total")

    def _intent(self, _: Recorded, event: ev.IntentDetected, owner: Owner, at: str) -> None:
        self._intents.append(event.intent)
        self._confidences.append(event.confidence)

    def _executed(self, _: Recorded, event: ev.ActionExecuted, owner: Owner, at: str) -> None:
        self._done.append(event.action)

    def _failed(self, _: Recorded, event: ev.ActionFailed, owner: Owner, at: str) -> None:
        outcome = "unknown" if event.category == "outcome_unknown" else "failed"
        self._add("whatsapp_action_executed_total", ("action", event.action, "outcome", outcome))

    def _compensated(self, _: Recorded, event: ev.ActionCompensated, owner: Owner, at: str) -> None:
        self._add("whatsapp_action_compensated_total", ("action", event.action))

    def _completed(self, _: Recorded, event: ev.MessageCompleted, owner: Owner, at: str) -> None:
        self._processing_us.append(event.processing_us)

    def _dead_lettered(
        self, _: Recorded, event: ev.MessageDeadLettered | ev.MessageRejected, owner: Owner, at: str
    ) -> None:
        self._add("message_dlq_total", ("category", event.category))

    def _opened(self, _: Recorded, event: ev.BreakerOpened, owner: Owner, at: str) -> None:
        self._breaker(event.name, "open")

    def _half_opened(self, _: Recorded, event: ev.BreakerHalfOpened, owner: Owner, at: str) -> None:
        self._breaker(event.name, "half_open")

    def _closed(self, _: Recorded, event: ev.BreakerClosed, owner: Owner, at: str) -> None:
        self._breaker(event.name, "closed")

    def _rewound(self, _: Recorded, event: ev.StreamRewound, owner: Owner, at: str) -> None:
        if not event.told:
            self._add("stream_rewound_total")

    def _lost(self, _: Recorded, event: ev.MessagesLost, owner: Owner, at: str) -> None:
        self._add("messages_lost_total", by=event.count)

    def _breaker(self, name: str, state: str) -> None:
        self._states[name] = BREAKER_STATES[state]

    def _observe(self, name: str, values: list[N], in_millionths: Callable[[N], int]) -> None:
        """Each value into every bucket it fits."""
        if not values:
            return
        bounds = BUCKETS[name]
        first_fits = [0] * (len(bounds) + 1)
        total = 0
        for value, times in Counter(values).items():
            millionths = in_millionths(value)
            total += millionths * times
            first_fits[bisect_left(bounds, millionths)] += times
        for bound, count in zip((*bounds, None), accumulate(first_fits), strict=True):
            if count:
                self._add(f"{name}_bucket", ("le", "+Inf" if bound is None else bound_text(bound)), count)
        self._add(f"{name}_count", by=len(values))
        self._add(f"{name}_sum", by=total)

    def _add(self, name: str, labels: Labels = (), by: int = 1) -> None:
        self._counted[name, labels] += by

    def _count(self, name: str, labels: Labels, by: int) -> None:
        row = self._row(name, labels)
        row.value = min(MAX_VALUE, row.value + by)

    def _label_of(self, intent: str) -> str:
        """An intent's own label, while there are not too many."""
        name = "ai_intent_detected_total"
        if (name, self._text(("intent", intent))) in self._rows.known:
            return intent
        labelled = sum(known == name for known, _ in self._rows.known)
        return intent if labelled < MAX_INTENTS else OTHER_INTENTS

    def _text(self, labels: Labels) -> str:
        text = self._texts.get(labels)
        if text is None:
            text = self._texts[labels] = labels_text(labels)
        return text

    def _row(self, name: str, labels: Labels) -> MetricRow:
        key = (name, self._text(labels))
        row = self._rows.get(key) or MetricRow(*key, 0)
        self._rows.put(key, row)
        return row


def labels_text(labels: Labels) -> str:
    """Labels as the view keeps them: JSON with sorted keys."""
    names = dict(zip(labels[::2], labels[1::2], strict=True))
    return json.dumps(names, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def bound_text(millionths: int) -> str:
    """A bucket's bound in the histogram's own unit, as Prometheus writes it: `0.25`, `10.0`."""
    return str(millionths / 1_000_000)
