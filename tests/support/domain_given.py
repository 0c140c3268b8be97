"""`given(*events).when(command).then(*events)`, and the loop around it with clock, ids and places made up.

Every step also rebuilds the lead from its encoded history and compares: replay equals what lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any, Self, TypeVar

import msgspec

from domain import codec, lead, turns
from domain.commands import Command, EndWait, InterruptAction, PersonsCommand, ReceiveMessage, RecordOutcome
from domain.events import ActionDeferred, ActionStarted, Event, Place, Recorded
from domain.lead import LeadState, Wait
from domain.messages import IncomingMessage
from domain.outcomes import NotCalled, Outcome
from domain.playbook import Playbook
from domain.ports import ActionCall
from domain.tokens import derived_id, lead_stream
from domain.tokens import encode as token
from tests.support.domain_rules import playbook as default_playbook

T0 = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
STREAM = lead_stream("acme-foods", "lead-1")
INCARNATION = "2026-11-02T08:00:00Z.0"
#: More facts than any one command can lead to: a loop that does not come to rest is told from a long one.
ENDLESS = 1000

E = TypeVar("E", bound=Event)


def message(message_id: str = "m1", intent: str = "PRICING_INQUIRY", **fields: Any) -> IncomingMessage:
    """A valid message of the lead that tests are about."""
    values: dict[str, Any] = {
        "message_id": message_id,
        "lead_id": "lead-1",
        "business_id": "acme-foods",
        "tenant_id": "acme",
        "intent": intent,
        "confidence": 0.95,
        "payload": f'{{"message_id":"{message_id}"}}',
        **fields,
    }
    return IncomingMessage(**values)


def order(message_id: str = "m1", **fields: Any) -> IncomingMessage:
    """An order that plans `create_order`, then `notify_sales`."""
    return message(message_id, "ORDER_REQUEST", **{"entities": {"product": "laptop"}, **fields})


class Story:
    """A lead driven through its loop by hand. `now` moves only when told.

    `rebuilds` compares with the rebuilt state after every step; off where only speed is in the way.
    """

    def __init__(self, rules: Playbook | None = None, *, now: datetime = T0, rebuilds: bool = True) -> None:
        self.rules = rules or default_playbook()
        self.now = now
        self.history: list[Recorded] = []
        self.state = LeadState(STREAM)
        self.sequence = 0
        self.rebuilds = rebuilds
        #: What calls that need a turn are told; None where there is one.
        self.refusal: NotCalled | None = None

    def receive(self, incoming: IncomingMessage | str, **fields: Any) -> Sequence[Event]:
        """The message comes at the next place of the log."""
        arrived = message(incoming, **fields) if isinstance(incoming, str) else incoming
        return self.tell(ReceiveMessage(arrived), place=self.next_place())

    def command(self, command: PersonsCommand) -> Sequence[Event]:
        """A person's command comes at the next place of the log."""
        return self.tell(command, place=self.next_place())

    def answer(self, outcome: Outcome) -> Sequence[Event]:
        """The started call ends so."""
        call = self.call
        return self.tell(RecordOutcome(call.key, call.attempt, outcome))

    def interrupt(self) -> Sequence[Event]:
        """The started call is found to be lost."""
        return self.tell(InterruptAction(self.call.key, self.call.attempt))

    def wait(self) -> Sequence[Event]:
        """The recorded wait passes, to the microsecond."""
        due = self.due
        self.now += due.delay
        return self.tell(EndWait(due.key, due.attempt))

    def tell(self, command: Command | PersonsCommand, *, place: Place | None = None) -> Sequence[Event]:
        """Decide, then follow until the lead is at rest; the events of all of it."""
        before = len(self.history)
        decided = lead.decide(self.state, command, self.rules, now=self.now, place=place)
        self.record(self._in_turn(decided), place)
        while events := lead.follow(self.state, self.rules, self.now):
            self.record(self._in_turn(events))
            assert len(self.history) - before < ENDLESS, "the lead does not come to rest"
        if self.rebuilds:
            assert_same(self.state, self.rebuilt())
        return [recorded.event for recorded in self.history[before:]]

    def _in_turn(self, events: Sequence[Event]) -> Sequence[Event]:
        begun = turns.asked_by(self.state, events)
        if begun is None or self.refusal is None:
            return events
        return turns.turned_away(self.state, begun, self.refusal, self.rules, self.now)

    def record(self, events: Sequence[Event], place: Place | None = None) -> None:
        """What happened happens: in the history and in the state."""
        for event in events:
            version = len(self.history) + 1
            event_id = derived_id(f"{STREAM}/{version}")
            recorded = Recorded(STREAM, version, event, event_id, self.now, place=place)
            self.history.append(recorded)
            self.state = lead.evolve(self.state, recorded)

    def rebuilt(self) -> LeadState:
        """The state as another process finds it, from the encoded events."""
        state = LeadState(STREAM)
        for recorded in self.history:
            name, row = codec.encode(recorded)
            state = lead.evolve(state, codec.decode(name, row, STREAM, recorded.version))
        return state

    def crash(self) -> Self:
        """The process is gone; the next one knows the events alone."""
        self.state = self.rebuilt()
        return self

    def next_place(self) -> Place:
        self.sequence += 1
        return Place(INCARNATION, 3, self.sequence)

    @property
    def call(self) -> ActionCall:
        """The call that is out."""
        step = lead.next_step(self.state, self.now)
        assert isinstance(step, ActionCall), f"no call is out, but {step}"
        return step

    @property
    def due(self) -> Wait:
        """The wait that is recorded."""
        step = lead.next_step(self.state, self.now)
        assert isinstance(step, Wait), f"nothing waits, but {step}"
        return step

    @property
    def at_rest(self) -> bool:
        return lead.next_step(self.state, self.now) is None

    def all(self, kind: type[E]) -> list[E]:
        """Every event of a kind so far."""
        return [r.event for r in self.history if isinstance(r.event, kind)]

    def last(self, kind: type[E]) -> E:
        """The latest event of a kind."""
        found = self.all(kind)
        assert found, f"no {kind.__name__} in {names(r.event for r in self.history)}"
        return found[-1]

    def gaps(self) -> list[float]:
        """Seconds between each deferral and the start that followed it, by the events' own times."""
        deferred: datetime | None = None
        found: list[float] = []
        for recorded in self.history:
            if isinstance(recorded.event, ActionDeferred):
                deferred = recorded.at
            elif isinstance(recorded.event, ActionStarted) and deferred is not None:
                found.append((recorded.at - deferred) / timedelta(seconds=1))
                deferred = None
        return found


class When:
    """What a command led to, to be compared."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events

    def then(self, *expected: Event) -> None:
        """Exactly these events, in this order."""
        if list(self.events) != list(expected):
            raise AssertionError(side_by_side(expected, self.events))

    def then_names(self, *expected: str) -> None:
        """Events of exactly these kinds, in this order."""
        if names(self.events) != list(expected):
            raise AssertionError(side_by_side(expected, names(self.events)))


class Given:
    """A lead to which this has happened."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def under(self, rules: Playbook) -> Given:
        """The same history, under these rules."""
        self.story.rules = rules
        return self

    def at(self, now: datetime) -> Given:
        """The command comes at this time."""
        self.story.now = now
        return self

    def when(self, command: Command | PersonsCommand | IncomingMessage, place: Place | None = None) -> When:
        """The command, and all that follows from it."""
        if isinstance(command, IncomingMessage):
            command = ReceiveMessage(command)
        return When(self.story.tell(command, place=place))


def given(*events: Event) -> Given:
    """A lead to which these events have happened, all at `T0`; none for a new lead."""
    story = Story()
    story.record(events)
    return Given(story)


def names(events: Any) -> list[str]:
    """The events' kinds."""
    return [type(event).__name__ for event in events]


def base_key(message_id: str = "m1") -> str:
    """What the keys of a message's actions begin with."""
    return f"acme-foods/lead-1/{token(message_id)}"


def dead_letter_id(message_id: str = "m1") -> str:
    return derived_id(base_key(message_id))


def assert_same(live: LeadState, rebuilt: LeadState) -> None:
    """Two states hold the same, field by field."""
    left, right = msgspec.to_builtins(live), msgspec.to_builtins(rebuilt)
    if left != right:
        differing = [key for key in left if left[key] != right[key]]
        raise AssertionError(
            "rebuilt differs from live:\n"
            + "\n".join(f"{key}:\n  live    {left[key]}\n  rebuilt {right[key]}" for key in differing)
        )


def side_by_side(expected: Sequence[object], got: Sequence[object], width: int = 60) -> str:
    """Both lists in two columns, a mark where they part, and the first pair that differs in full."""
    rows = list(zip_longest(map(str, expected), map(str, got), fillvalue="-"))
    lines = [f"  {'EXPECTED':{width}}   GOT"]
    lines += [
        f"{' ' if left == right else '≠'} {left[:width]:{width}}   {right[:width]}" for left, right in rows
    ]
    differing = next((row for row in rows if row[0] != row[1]), None)
    if differing:
        lines += ["", f"expected {differing[0]}", f"got      {differing[1]}"]
    return "\n".join(lines)
