"""Every fact Leadline records: nouns and past participles, business fields only.

Stream id, version, time, cause, correlation, trace and place in the log sit in the envelope `Recorded`.
An event's stored name is pinned in `STORED_NAMES`; a changed shape gets a new version there and an
upcaster in `domain/codec.py`, never another meaning under the same name.

Every instant is an aware datetime in UTC; durations end in the name of their unit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from msgspec import Struct

Idempotency = Literal["none", "keyed", "once"]
Category = Literal[
    "rejected",
    "handler_failed",
    "lead_stopped",
    "action_failed",
    "compensation_failed",
    "outcome_unknown",
    "breaker_open",
]
#: busy: the target takes no more calls now (its workers, its rate, a pause that it asked for).
DeferReason = Literal["retry", "breaker", "busy", "target_configuration"]


class Place(NamedTuple):
    """Where a message or command stands in the log.

    `incarnation` names one life of the stream, `<created>.<epoch>` [H6]; sequences of two
    incarnations cannot be compared.
    """

    incarnation: str
    partition: int
    sequence: int


class Event(Struct, frozen=True, gc=False, omit_defaults=True):
    """Base of all events."""


class Recorded(Struct, frozen=True, gc=False):
    """An event with its envelope, as it stands in a stream.

    `position` is the notification id in the whole store, 0 while it is not known (before the commit).
    """

    stream: str
    version: int
    event: Event
    event_id: str
    at: datetime
    #: What brought it about: an event id, `in:<sequence>` for the log's own entry, or a command id.
    cause: str = ""
    #: The message id (or command id) that everything which followed from it shares.
    correlation: str = ""
    #: W3C `traceparent` of the message.
    trace: str = ""
    place: Place | None = None
    position: int = 0


class PlannedAction(Struct, frozen=True, gc=False, omit_defaults=True):
    """One step of a plan. Without a `target` the action is its event, and needs no call.

    An action with several targets is as many steps, one after the other: its parts.
    """

    n: int
    action: str
    #: `<business>/<lead token>/<message token>/<n>.<action>`, the same for every attempt.
    key: str
    target: str | None = None
    idempotency: Idempotency | None = None
    #: Of a step that is one of several: its target's own name, which of them it is, and how many there are.
    name: str = ""
    part: int = 0
    parts: int = 1

    @property
    def first(self) -> int:
        """The n of its action's first step."""
        return self.n - self.part

    @property
    def last(self) -> int:
        """The n of its action's last step."""
        return self.first + self.parts - 1


class Task(Struct, frozen=True, gc=False, omit_defaults=True):
    """The task that an executed action makes; what is missing of the `tasks` view the stream id says."""

    task_id: str
    task_type: str
    title: str
    description: str
    priority: str
    assigned_to_type: str
    assigned_to_id: str
    due_date: datetime
    tenant_id: str
    metadata: dict[str, Any] = {}


class MessageReceived(Event, frozen=True):
    """A lead has a message. `payload` is the body as published; `key` names this life of the id [H23]."""

    message_id: str
    key: str
    lead_id: str
    business_id: str
    tenant_id: str
    intent: str
    confidence: float
    payload: str
    entities: dict[str, str] = {}
    text: str | None = None
    suggested_response: str | None = None
    received_at: datetime | None = None
    ai_model: str | None = None
    ai_latency_ms: float | None = None
    #: The dead letter that this delivery redrives.
    redrive_of: str | None = None
    #: The dead letter that it waits behind, where its business keeps the order over dead letters.
    behind: str | None = None


class DuplicateDetected(Event, frozen=True):
    """A message id that has taken effect already (or is about to) came again."""

    message_id: str
    redrive_of: str | None = None


class IntentDetected(Event, frozen=True):
    """The handler that took the message; `intent` is what the AI said, `handler` whose rules apply."""

    message_id: str
    intent: str
    handler: str
    confidence: float
    band: Literal["high", "medium", "low"]


class ActionsPlanned(Event, frozen=True):
    message_id: str
    run: int
    actions: tuple[PlannedAction, ...]
    escalate: bool
    response: str


class ActionStarted(Event, frozen=True):
    """A call is about to leave the process; durable before it does [H3]."""

    message_id: str
    n: int
    action: str
    key: str
    attempt: int
    target: str
    undo: bool = False


class StepExecuted(Event, frozen=True):
    """One target of an action that has several is through, and not the last: that one is `ActionExecuted`."""

    message_id: str
    n: int
    action: str
    key: str
    target: str
    attempts: int = 0
    #: Ids that the target's system gave, handed to this step's compensation.
    remote: dict[str, str] = {}
    #: Who said so, where a person settled an unknown outcome.
    settled_by: str | None = None


class ActionExecuted(Event, frozen=True):
    """Done, with all its targets; the task follows. `n`, `key`, `attempts` and `remote` are the last step's.

    `attempts` is 0 where no call was needed.
    """

    message_id: str
    n: int
    action: str
    key: str
    task: Task
    attempts: int = 0
    #: Ids that the target's system gave: shown with the task, handed to the compensation.
    remote: dict[str, str] = {}
    #: Who said so, where a person settled an unknown outcome.
    settled_by: str | None = None


class ActionAttemptFailed(Event, frozen=True):
    """One call went wrong: `failed` is proved not to have happened, `unknown` may have.

    `throttled` is proved not to have happened either, and is not the call's fault: it takes none of its retries.
    """

    message_id: str
    n: int
    action: str
    key: str
    attempt: int
    kind: Literal["failed", "throttled", "unknown"]
    error: str
    undo: bool = False


class ActionInterrupted(Event, frozen=True):
    """A started call whose outcome was lost with its process; judged by the target's idempotency class."""

    message_id: str
    n: int
    action: str
    key: str
    attempt: int
    undo: bool = False


class ActionDeferred(Event, frozen=True):
    """The action waits: until when, and at most until when [H16]."""

    message_id: str
    n: int
    action: str
    key: str
    reason: DeferReason
    until: datetime
    deadline: datetime | None = None
    #: The attempt that was started and not made, where the wait took its place (it is not burnt).
    returned_attempt: bool = False
    undo: bool = False
    #: The target it waits for: the view `unfinished` names its breaker.
    target: str | None = None


class ActionFailed(Event, frozen=True):
    """Failed for good; `category` says how the message will be dead-lettered."""

    message_id: str
    n: int
    action: str
    key: str
    attempts: int
    category: Category
    error: str
    #: No attempt's effect can be ruled out: a new run keeps the key, so that a keyed target dedups it.
    maybe_done: bool = False


class StepCompensated(Event, frozen=True):
    """One step is undone, and either others of its action still stand or the action was never executed."""

    message_id: str
    n: int
    action: str
    key: str
    target: str
    attempts: int = 0
    settled_by: str | None = None


class ActionCompensated(Event, frozen=True):
    """Undone, all of it: the task is cancelled, and the targets, if any, have confirmed. `n` is the last undone."""

    message_id: str
    n: int
    action: str
    key: str
    task_id: str
    attempts: int = 0
    settled_by: str | None = None


class CompensationFailed(Event, frozen=True):
    """A step could not be undone: a person has to."""

    message_id: str
    n: int
    action: str
    key: str
    #: Empty where the action was not executed, and has made no task.
    task_id: str
    attempts: int
    error: str


class MessageCompleted(Event, frozen=True):
    message_id: str
    run: int
    executed: tuple[str, ...]
    #: From the recorded receipt to completion, in microseconds.
    processing_us: int
    escalate: bool = False
    #: The row of the dead letter queue that this message had before, and the calls made over all runs.
    dead_letter_id: str | None = None
    attempts: int = 0
    first_attempt_at: datetime | None = None
    last_attempt_at: datetime | None = None


class MessageDeadLettered(Event, frozen=True):
    """A person has to look. One row of the dead letter queue, over all runs of the message."""

    dead_letter_id: str
    message_id: str
    lead_id: str
    business_id: str
    tenant_id: str
    run: int
    category: Category
    error: str
    original_payload: str
    stack: str | None = None
    #: Calls made, over all runs.
    attempts: int = 0
    first_attempt_at: datetime | None = None
    last_attempt_at: datetime | None = None
    #: A person has settled it already (`dlq resolve --as undone`): the row stays resolved.
    settled: bool = False
    #: The lead's later messages wait behind it until it is settled.
    parks: bool = False


class DeadLetterRetried(Event, frozen=True):
    dead_letter_id: str
    message_id: str | None
    run: int
    command_id: str
    by: str
    why: str
    #: As of a message received.
    behind: str | None = None


class DeadLetterAmended(Event, frozen=True):
    """Fields of the message changed by a person; `before` keeps what they were."""

    dead_letter_id: str
    message_id: str | None
    changes: dict[str, Any]
    before: dict[str, Any]
    command_id: str
    by: str
    why: str


class DeadLetterResolved(Event, frozen=True):
    """Settled by a person: `done` completes the message, `undone` says that nothing of it stands, `retried` has
    the step in question called again, `skipped` leaves it as it is. Or, without a message, by a lead that has the reply
    which was kept while it was stopped."""

    dead_letter_id: str
    message_id: str | None
    outcome: Literal["done", "retried", "skipped", "undone"]
    command_id: str
    by: str
    why: str
    #: The message goes back to work: the rest of its plan, or the compensation of what was done.
    requeued: bool = False
    #: As of a message received.
    behind: str | None = None


class DeadLetterDiscarded(Event, frozen=True):
    dead_letter_id: str
    message_id: str | None
    command_id: str
    by: str
    why: str


class MessageRejected(Event, frozen=True):
    """What cannot be taken, kept as it came. Stands in `rejects:<partition>`."""

    dead_letter_id: str
    category: Literal["rejected", "lead_stopped"]
    reason: str
    subject: str
    #: The body's text, or `base64:` and its bytes; cut at the message limit.
    payload: str
    size: int
    #: Of the subject: who it was sent for. None where a token is not canonical.
    lead_id: str | None = None
    business_id: str | None = None
    message_id: str | None = None
    tenant_id: str | None = None
    traceparent: str = ""


class CommandRefused(Event, frozen=True):
    """A command that could not be carried out; a known `command_id` is answered from this [H14]."""

    command_id: str
    command: str
    by: str
    why: str
    reason: str


class TaskStarted(Event, frozen=True):
    task_id: str
    command_id: str
    by: str
    why: str


class TaskCompleted(Event, frozen=True):
    task_id: str
    command_id: str
    by: str
    why: str


class TaskCancelled(Event, frozen=True):
    task_id: str
    command_id: str
    by: str
    why: str


class TaskReassigned(Event, frozen=True):
    task_id: str
    assigned_to_type: str
    assigned_to_id: str
    command_id: str
    by: str
    why: str


class ReplyExpired(Event, frozen=True):
    """The response could not be sent in WhatsApp's window: its task takes its place."""

    message_id: str
    task: Task
    window_ended_at: datetime
    command_id: str
    by: str
    why: str


class LeadFlagged(Event, frozen=True):
    message_id: str
    key: str


class LeadUnflagged(Event, frozen=True):
    message_id: str
    key: str


class LeadStopped(Event, frozen=True):
    """A lead whose code keeps raising takes no more mail. Stands in `rejects:<partition>`."""

    lead_stream: str
    error: str
    stack: str
    failures: int


class LeadResumed(Event, frozen=True):
    """The stopped lead's mail is delivered again, in order: these dead letters."""

    lead_stream: str
    dead_letter_ids: tuple[str, ...]
    command_id: str
    by: str
    why: str


class BreakerOpened(Event, frozen=True):
    name: str
    calls: int
    failures: int
    #: None for a target that is switched off: only the runner's next start tries it again.
    retry_at: datetime | None
    open_for_us: int
    error: str
    #: Not because it failed, but because its settings are wrong, or its secret, or its login.
    configuration: bool = False
    #: The target says that it is gone (HTTP 410).
    switched_off: bool = False


class BreakerHalfOpened(Event, frozen=True):
    name: str


class BreakerClosed(Event, frozen=True):
    name: str


class StreamRewound(Event, frozen=True):
    """The stream ends below a position: restored from a backup, or made anew [H6]."""

    partition: int
    incarnation: str
    position: int
    last_sequence: int
    new_incarnation: str
    #: Another partition has told of the same rewind: the stream has come back once.
    told: bool = False


class MessagesLost(Event, frozen=True):
    """Sequences that the stream no longer holds were never read: those of them that were this partition's [H7]."""

    partition: int
    incarnation: str
    from_sequence: int
    to_sequence: int
    #: How many of these no other partition had told of before: nobody knows whose they were. None, of events
    #: that do not say it: all.
    untold: int | None = None

    @property
    def count(self) -> int:
        """How many entries are gone that were not known to be, at most."""
        whole = self.to_sequence - self.from_sequence + 1
        return max(0, whole if self.untold is None else self.untold)


class EventSkipped(Event, frozen=True):
    """A person goes on without an event that cannot be read or applied. Stands in `operator:events`."""

    #: Its position in the store; stream, version and stored name as its row has them.
    skipped: int
    stream: str
    version: int
    name: str
    #: Of the row as it was: one that is mended later is read again.
    digest: str
    error: str
    by: str
    why: str


#: Event class → its stored name. Append only.
STORED_NAMES: dict[type[Event], str] = {
    MessageReceived: "message_received.v1",
    DuplicateDetected: "duplicate_detected.v1",
    IntentDetected: "intent_detected.v1",
    ActionsPlanned: "actions_planned.v1",
    ActionStarted: "action_started.v1",
    ActionExecuted: "action_executed.v1",
    ActionAttemptFailed: "action_attempt_failed.v1",
    ActionInterrupted: "action_interrupted.v1",
    ActionDeferred: "action_deferred.v1",
    ActionFailed: "action_failed.v1",
    ActionCompensated: "action_compensated.v1",
    CompensationFailed: "compensation_failed.v1",
    MessageCompleted: "message_completed.v1",
    MessageDeadLettered: "message_dead_lettered.v1",
    DeadLetterRetried: "dead_letter_retried.v1",
    DeadLetterAmended: "dead_letter_amended.v1",
    DeadLetterResolved: "dead_letter_resolved.v1",
    DeadLetterDiscarded: "dead_letter_discarded.v1",
    MessageRejected: "message_rejected.v1",
    CommandRefused: "command_refused.v1",
    TaskStarted: "task_started.v1",
    TaskCompleted: "task_completed.v1",
    TaskCancelled: "task_cancelled.v1",
    TaskReassigned: "task_reassigned.v1",
    LeadFlagged: "lead_flagged.v1",
    LeadUnflagged: "lead_unflagged.v1",
    LeadStopped: "lead_stopped.v1",
    LeadResumed: "lead_resumed.v1",
    BreakerOpened: "breaker_opened.v1",
    BreakerHalfOpened: "breaker_half_opened.v1",
    BreakerClosed: "breaker_closed.v1",
    StreamRewound: "stream_rewound.v1",
    MessagesLost: "messages_lost.v1",
    StepExecuted: "step_executed.v1",
    StepCompensated: "step_compensated.v1",
    EventSkipped: "event_skipped.v1",
    ReplyExpired: "reply_expired.v1",
}
