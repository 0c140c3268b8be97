"""The views against the events: a rebuild, a recount that shares no code with them, and whose rows are whose."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from actors.event_store import EventStore
from domain import events as ev
from domain.errors import LeadlineError
from domain.events import Recorded
from domain.tokens import lead_of_stream
from projections.metrics import BUCKETS
from projections.rebuild import verify
from tests.support.system_sql import Row
from tests.verify.evidence import Evidence

#: Name and labels (JSON) → value.
Metrics = dict[tuple[str, str], int]

_BREAKER_STATES: dict[type[ev.Event], int] = {
    ev.BreakerClosed: 0,
    ev.BreakerHalfOpened: 1,
    ev.BreakerOpened: 2,
}
_DISPOSITIONS: dict[type[ev.Event], str] = {
    ev.MessageCompleted: "completed",
    ev.MessageDeadLettered: "dead_lettered",
}


def the_views_equal_a_rebuild(evidence: Evidence) -> Iterator[str]:
    """Row by row; this one reads the databases themselves."""
    try:
        with closing(EventStore.open(evidence.data / "events.db")) as log:
            found = verify(log, evidence.data / "views.db")
    except LeadlineError as error:
        yield str(error)
        return
    if found.stopped_error:
        yield f"the views have stopped: {found.stopped_error}"
    last = max((recorded.position for recorded in evidence.events), default=0)
    if found.position < last:
        yield f"the views stand at event {found.position} of {last}"
    for difference in found.differences:
        place = f"{difference.table} {difference.key}: {difference.column}"
        yield f"{place} is {difference.live!r}, rebuilt {difference.rebuilt!r}"


def the_metrics_equal_a_recount(evidence: Evidence) -> Iterator[str]:
    """Every counter and histogram, counted from the events by hand."""
    shown = {(row["name"], row["labels"]): row["value"] for row in evidence.views["metrics"]}
    counted = recount(evidence)
    for metric in sorted(shown.keys() | counted.keys()):
        if shown.get(metric, 0) != counted.get(metric, 0):
            yield f"{metric[0]}{metric[1]} is {shown.get(metric)}, counted {counted.get(metric)}"


def each_message_has_one_row_with_its_disposition(evidence: Evidence) -> Iterator[str]:
    """`processed_messages`: every message that a lead has, and how it ended last; rejected ones beside them."""
    rows = {
        (r["business_id"], r["lead_id"], r["message_id"]): r["disposition"]
        for r in evidence.views["processed_messages"]
    }
    expected = {}
    for stream, history in evidence.leads.items():
        business, lead_id = lead_of_stream(stream)
        for message_id, disposition in _dispositions(history).items():
            expected[business, lead_id, message_id] = disposition
    for key, disposition in expected.items():
        if rows.get(key) != disposition:
            yield f"{key} is {disposition} by its events, {rows.get(key)} in the view"
    for key in rows.keys() - expected.keys():
        if rows[key] not in {"rejected", "completed"}:  # a reject that a person has settled is completed
            yield f"{key} is {rows[key]}, and no lead has it"


def no_row_holds_another_businesss_words(evidence: Evidence) -> Iterator[str]:
    """Texts of the workload begin with their business and lead: none stands in another's row."""
    leads = {(row["business_id"], row["lead_id"]) for row in evidence.views["leads"]}
    for row in evidence.views["tasks"]:
        said = tuple(row["description"].split("|")[:2])
        if said in leads and said != (row["business_id"], row["lead_id"]):
            yield f"task {row['task_id']} of {row['business_id']}/{row['lead_id']} says {row['description'][:80]!r}"
    for row in evidence.views["dead_letter_queue"]:
        if row["category"] != "rejected":
            yield from _wrong_payload(row, leads)
    for name in ("tasks", "dead_letter_queue", "leads"):
        for row in evidence.views[name]:
            tenant = evidence.businesses.get(row["business_id"])
            if row["tenant_id"] is not None and row["tenant_id"] != tenant:
                yield f"{name}: a row of {row['business_id']} belongs to tenant {row['tenant_id']}"


def recount(evidence: Evidence) -> Metrics:
    """The metrics, from the events alone. Apart from `projections/metrics.py` but for its buckets' bounds."""
    counts = _Counts()
    for recorded in evidence.events:
        counts.take(recorded)
    for name, state in counts.breakers.items():
        counts.add("circuit_breaker_state", state, breaker=name)
    return dict(counts.counted)


class _Counts:
    """What was counted and observed so far, and the last state of each breaker."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str]] = Counter()
        self.breakers: dict[str, int] = {}

    def add(self, name: str, by: int = 1, **labels: str) -> None:
        text = json.dumps(labels, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        self.counted[name, text] += by

    def observe(self, name: str, value: int) -> None:
        bounds = BUCKETS[name]
        for bound in bounds[bisect_left(bounds, value) :]:
            self.add(f"{name}_bucket", le=str(bound / 1_000_000))
        self.add(f"{name}_bucket", le="+Inf")
        self.add(f"{name}_count")
        self.add(f"{name}_sum", value)

    def take(self, recorded: Recorded) -> None:
        event = recorded.event
        state = _BREAKER_STATES.get(type(event))
        if state is not None:
            self.breakers[event.name] = state  # type: ignore[attr-defined]  # each of them has one
        match event:
            case ev.MessageReceived(ai_latency_ms=latency):
                self.add("whatsapp_messages_received_total", business=recorded.stream.split(":")[1])
                if latency is not None:
                    self.observe("ai_processing_seconds", min(86_400_000_000, round(latency * 1000)))
            case ev.DuplicateDetected():
                self.add("message_duplicate_total")
            case ev.IntentDetected(intent=intent, confidence=confidence):
                self.add("ai_intent_detected_total", intent=intent)
                self.observe("ai_intent_confidence", round(confidence * 1_000_000))
            case ev.MessageCompleted(processing_us=took):
                self.observe("message_processing_seconds", max(0, took))
            case ev.MessageDeadLettered(category=category) | ev.MessageRejected(category=category):
                self.add("message_dlq_total", category=category)
            case ev.ActionExecuted() | ev.ActionFailed() | ev.ActionCompensated():
                self._action(event)

    def _action(self, event: ev.ActionExecuted | ev.ActionFailed | ev.ActionCompensated) -> None:
        if isinstance(event, ev.ActionCompensated):
            self.add("whatsapp_action_compensated_total", action=event.action)
            return
        outcome = "done"
        if isinstance(event, ev.ActionFailed):
            outcome = "unknown" if event.category == "outcome_unknown" else "failed"
        self.add("whatsapp_action_executed_total", action=event.action, outcome=outcome)


def _dispositions(history: list[ev.Event]) -> dict[str, str]:
    """Message id → how it ended last, or that it is at work."""
    found: dict[str, str] = {}
    for event in history:
        message_id = getattr(event, "message_id", None)
        if message_id is None:
            continue
        if type(event) in _DISPOSITIONS:
            found[message_id] = _DISPOSITIONS[type(event)]
        elif isinstance(event, ev.MessageReceived | ev.DeadLetterRetried):
            found[message_id] = "in_progress"
        elif isinstance(event, ev.DeadLetterResolved) and event.outcome == "done":
            found[message_id] = "in_progress" if event.requeued else "completed"
    return found


def _wrong_payload(row: Row, leads: set[tuple[str, str]]) -> Iterator[str]:
    """A dead letter of a message that was understood keeps the message as it came; that of a late reply, what the
    lead wrote."""
    body = json.loads(row["original_payload"])
    if row["message_id"] is None:
        said = tuple(body["text"].split("|")[:2])
        if said in leads and said != (row["business_id"], row["lead_id"]):
            yield f"dead letter {row['id']} of {row['business_id']}/{row['lead_id']} answers {body['text'][:80]!r}"
        return
    ids = tuple(body.get(name) for name in ("business_id", "lead_id", "message_id"))
    if ids != (row["business_id"], row["lead_id"], row["message_id"]):
        yield f"dead letter {row['id']} of {row['business_id']}/{row['lead_id']} holds the message {ids}"


ALWAYS = ()
AT_REST = (
    the_views_equal_a_rebuild,
    the_metrics_equal_a_recount,
    each_message_has_one_row_with_its_disposition,
    no_row_holds_another_businesss_words,
)
