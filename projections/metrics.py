"""The view `metrics`: counters and histograms that survive restarts, since they follow from the events.

Integers only [H22]: seconds are summed as microseconds and confidences as millionths, under names that end in
`_sum`; `projections/collector.py` converts them. Buckets are cumulative, as Prometheus has them, and each
observation is counted once, by the event that holds it. Labels that a publisher can choose are bounded.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from typing import TypeAlias

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


#: Names and values in turn, names sorted.
Labels: TypeAlias = tuple[str, ...]


class MetricRow(Struct, gc=False):
    name: str
    labels: str
    value: int


class _Observed:
    """One histogram's observations in a batch, each in the one bucket it falls into first."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0


class Metrics:
    """Folds the view. The table is small, and kept whole between batches."""

    def __init__(self) -> None:
        self._rows = Rows(schema.metrics, MetricRow, whole=True)
        self.tables = (self._rows,)
        #: What the batch adds to each counter, and the last state of each breaker.
        self._counted: defaultdict[tuple[str, Labels], int] = defaultdict(int)
        self._states: dict[str, int] = {}
        self._intents: set[str] = set()
        self._observed: dict[str, _Observed] = {}
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
        """The table is loaded: which intents have a label of their own follows from it."""
        self._counted = defaultdict(int)
        self._states = {}
        self._observed = {name: _Observed(bounds) for name, bounds in BUCKETS.items()}
        name = "ai_intent_detected_total"
        self._intents = {json.loads(labels)["intent"] for n, labels in self._rows.known if n == name}

    def ends(self) -> None:
        """The batch is folded: what it counted goes into the rows, an observation into every bucket it fits."""
        for name, observed in self._observed.items():
            count = 0
            for bound, in_bucket in zip((*observed.bounds, None), observed.buckets, strict=True):
                count += in_bucket
                if count:
                    le = "+Inf" if bound is None else bound_text(bound)
                    self._add(f"{name}_bucket", ("le", le), by=count)
            if count:
                self._add(f"{name}_count", by=count)
                self._add(f"{name}_sum", by=observed.total)
        for (name, labels), by in self._counted.items():
            row = self._row(name, labels)
            row.value = min(MAX_VALUE, row.value + by)
        for breaker, value in self._states.items():
            self._row("circuit_breaker_state", ("breaker", breaker)).value = value

    def _received(self, _: Recorded, event: ev.MessageReceived, owner: Owner, at: str) -> None:
        self._add("whatsapp_messages_received_total", ("business", owner[1]))
        if event.ai_latency_ms is not None:
            self._observe("ai_processing_seconds", min(LONGEST_US, round(event.ai_latency_ms * 1000)))

    def _duplicate(self, _: Recorded, event: ev.DuplicateDetected, owner: Owner, at: str) -> None:
        self._add("message_duplicate_total")

    def _intent(self, _: Recorded, event: ev.IntentDetected, owner: Owner, at: str) -> None:
        intent = event.intent
        if intent not in self._intents:
            if len(self._intents) < MAX_INTENTS:
                self._intents.add(intent)
            else:
                intent = OTHER_INTENTS
        self._add("ai_intent_detected_total", ("intent", intent))
        self._observe("ai_intent_confidence", round(event.confidence * 1_000_000))

    def _executed(self, _: Recorded, event: ev.ActionExecuted, owner: Owner, at: str) -> None:
        self._counted["whatsapp_action_executed_total", ("action", event.action, "outcome", "done")] += 1

    def _failed(self, _: Recorded, event: ev.ActionFailed, owner: Owner, at: str) -> None:
        outcome = "unknown" if event.category == "outcome_unknown" else "failed"
        self._add("whatsapp_action_executed_total", ("action", event.action, "outcome", outcome))

    def _compensated(self, _: Recorded, event: ev.ActionCompensated, owner: Owner, at: str) -> None:
        self._add("whatsapp_action_compensated_total", ("action", event.action))

    def _completed(self, _: Recorded, event: ev.MessageCompleted, owner: Owner, at: str) -> None:
        self._observe("message_processing_seconds", max(0, event.processing_us))

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

    def _observe(self, name: str, millionths: int) -> None:
        observed = self._observed[name]
        observed.total += millionths
        observed.buckets[bisect_left(observed.bounds, millionths)] += 1

    def _add(self, name: str, labels: Labels = (), by: int = 1) -> None:
        self._counted[name, labels] += by

    def _row(self, name: str, labels: Labels) -> MetricRow:
        key = (name, labels_text(labels))
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
