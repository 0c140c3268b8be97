"""Events as leads, breakers and rejects would record them, told in a few words. Times are made up: a second each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from domain import events as ev
from domain.events import Category, Event, Place, Recorded
from domain.tokens import derived_id, encode, lead_stream

START = datetime(2026, 11, 2, 8, 0, 0, tzinfo=UTC)

TASK_TYPES = {
    "notify_sales": ("sales_notification", "team", "sales"),
    "create_order": ("order_processing", "team", "orders"),
    "create_support_ticket": ("support_ticket", "team", "support"),
    "flag_for_review": ("lead_review", "role", "reviewer"),
}


class Story:
    """Collects `recorded`; its methods give the events to `append`, or append them themselves."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self._versions: dict[str, int] = {}
        self._sequence = 0
        self.now = START

    def add(self, stream: str, *events: Event) -> None:
        """Record events of one append, one instant each, with the place of one entry of the log."""
        self._sequence += 1
        for event in events:
            self.now += timedelta(seconds=1, microseconds=7)
            version = self._versions[stream] = self._versions.get(stream, 0) + 1
            position = len(self.recorded) + 1
            self.recorded.append(
                Recorded(
                    stream,
                    version,
                    event,
                    derived_id(f"{stream}#{version}#{position}"),
                    self.now,
                    place=Place("life.0", 3, self._sequence),
                    position=position,
                )
            )


class LeadStory:
    """What happens to one lead's messages."""

    def __init__(self, story: Story, business: str = "acme", lead: str = "+49 151/1") -> None:
        self.story = story
        self.business = business
        self.lead = lead
        self.stream = lead_stream(business, encode(lead))

    def add(self, *events: Event) -> None:
        self.story.add(self.stream, *events)

    def key(self, message: str) -> str:
        return f"{self.business}/{encode(self.lead)}/{encode(message)}"

    def dead_letter_id(self, message: str) -> str:
        return derived_id(self.key(message))

    def task_id(self, message: str, n: int = 0, run: int = 1) -> str:
        return derived_id(f"{self.key(message)}/{n}.#{run}")

    def received(self, message: str, intent: str = "PRICING_INQUIRY", **fields: Any) -> Event:
        values: dict[str, Any] = {
            "confidence": 0.91,
            "payload": f'{{"message_id":"{message}"}}',
            "text": "how much?",
            "entities": {"product": "boots", "colour": "grün"},
            "ai_latency_ms": 129.5,
            "tenant_id": f"tenant-of-{self.business}",
        }
        return ev.MessageReceived(
            message_id=message,
            key=self.key(message),
            lead_id=self.lead,
            business_id=self.business,
            intent=intent,
            **(values | fields),
        )

    def intent(self, message: str, intent: str = "PRICING_INQUIRY", confidence: float = 0.91) -> Event:
        return ev.IntentDetected(message, intent, intent, confidence, "high")

    def executed(self, message: str, action: str = "notify_sales", *, n: int = 0, run: int = 1) -> Event:
        task_type, assigned_to_type, assigned_to_id = TASK_TYPES[action]
        task = ev.Task(
            task_id=self.task_id(message, n, run),
            task_type=task_type,
            title=f"{task_type} for {self.lead}",
            description="how much?",
            priority="normal",
            assigned_to_type=assigned_to_type,
            assigned_to_id=assigned_to_id,
            due_date=self.story.now + timedelta(hours=24),
            tenant_id=f"tenant-of-{self.business}",
            metadata={"response": "soon", "entities": {"z": "1", "a": "2"}, "confidence": 0.91},
        )
        return ev.ActionExecuted(message, n, action, f"{self.key(message)}/{n}.{action}", task)

    def started(self, message: str, action: str = "create_order", *, undo: bool = False) -> Event:
        return ev.ActionStarted(
            message, 0, action, f"{self.key(message)}/0.{action}", 1, f"{action}@{self.business}", undo
        )

    def deferred(self, message: str, reason: ev.DeferReason, target: str | None = None) -> Event:
        until = self.story.now + timedelta(seconds=5)
        key = f"{self.key(message)}/0.create_order"
        return ev.ActionDeferred(message, 0, "create_order", key, reason, until, target=target)

    def failed(self, message: str, category: Category = "action_failed") -> Event:
        key = f"{self.key(message)}/0.create_order"
        return ev.ActionFailed(message, 0, "create_order", key, 4, category, "refused")

    def compensated(self, message: str, n: int = 0, run: int = 1) -> Event:
        key = f"{self.key(message)}/{n}.notify_sales/undo"
        return ev.ActionCompensated(message, n, "notify_sales", key, self.task_id(message, n, run))

    def completed(self, message: str, run: int = 1, us: int = 2_000_000) -> Event:
        return ev.MessageCompleted(message, run, ("notify_sales",), us)

    def dead_lettered(
        self, message: str, category: Category = "action_failed", *, run: int = 1, settled: bool = False
    ) -> Event:
        return ev.MessageDeadLettered(
            self.dead_letter_id(message),
            message,
            self.lead,
            self.business,
            f"tenant-of-{self.business}",
            run,
            category,
            "refused",
            f'{{"message_id":"{message}"}}',
            None,
            4 * run,
            self.story.now,
            self.story.now,
            settled=settled,
        )

    def retried(self, message: str, run: int = 2) -> Event:
        return ev.DeadLetterRetried(
            self.dead_letter_id(message), message, run, f"c-{message}", "ann", "again"
        )

    def resolved(self, message: str, outcome: Any, *, requeued: bool = False) -> Event:
        return ev.DeadLetterResolved(
            self.dead_letter_id(message), message, outcome, f"c-{message}", "ann", "seen", requeued
        )

    def discarded(self, message: str) -> Event:
        return ev.DeadLetterDiscarded(self.dead_letter_id(message), message, f"c-{message}", "ann", "spam")

    def whole(self, message: str, action: str = "notify_sales") -> None:
        """A message from its receipt to its completion, in one append."""
        self.add(
            self.received(message),
            self.intent(message),
            ev.ActionsPlanned(message, 1, (), False, "soon"),
            self.executed(message, action),
            self.completed(message),
        )


def rejected(
    dead_letter_id: str,
    *,
    message: str | None = "m-bad",
    lead: str | None = "+49 151/1",
    business: str | None = "acme",
    category: Any = "rejected",
    subject: str = "leads.in.acme.=2B49=20151=2F1",
) -> Event:
    return ev.MessageRejected(
        dead_letter_id, category, "not JSON", subject, "{", 1, lead, business, message, "tenant-of-acme"
    )
