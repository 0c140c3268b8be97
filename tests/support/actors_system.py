"""The actors of stops 2 to 5 composed without NATS: the log is a list, everything behind it is the real thing.

`crash` drops all that is in memory, as a killed process would; another `ActorSystem` on the same folder, log
and outside world is the next process.
"""

from __future__ import annotations

import itertools
import json
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from msgspec import Struct

from actors.arrivals import Arrivals
from actors.breaker import BreakerActor, TargetParts
from actors.calls import CallRegistry
from actors.directory import Directory, LeadLimits
from actors.entry import EntryReader
from actors.event_store import EventStore
from actors.executors.registry import discover
from actors.journal import JournalActor, JournalHandle, open_recorder
from actors.lead import LeadActor, LeadParts
from actors.performer import performer
from actors.pool import Dispatcher
from actors.positions import Positions, position_name
from actors.recording import Clock, Recording
from actors.rejects import RejectsActor, RejectsParts
from actors.scheduler import Scheduler
from domain import tokens
from domain.breaker import BreakerPolicy
from domain.commands import PersonsCommand, encode_command
from domain.events import Event, Recorded
from domain.ports import ActionCall, Target
from domain.retry import RetryPolicy
from tests.support.actors_outside import HeldTarget, KeptReplies, ManualClock, Timers
from tests.support.domain_rules import Classes, playbook, routes_of
from tests.support.eventually import eventually

BUSINESS = "acme-foods"
PARTITIONS = 16
INCARNATION = "2026-11-02T08:00:00Z.0"


class Entry(Struct, frozen=True):
    """One entry of the stream LEADS."""

    partition: int
    sequence: int
    subject: list[bytes]
    body: bytes


class Log:
    """The stream LEADS as a list; it outlives every process."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def message(self, message_id: str, lead: str = "lead-1", **fields: Any) -> Entry:
        """A message; by default one that plans `notify_sales`."""
        body = {
            "message_id": message_id,
            "lead_id": lead,
            "business_id": BUSINESS,
            "intent": "PRICING_INQUIRY",
            "confidence": 0.95,
            **fields,
        }
        return self.raw(json.dumps(body).encode(), lead, business=body["business_id"])

    def order(self, message_id: str, lead: str = "lead-1", **fields: Any) -> Entry:
        """A message that plans `create_order`, then `notify_sales`."""
        fields = {"intent": "ORDER_REQUEST", "entities": {"product": "laptop"}, **fields}
        return self.message(message_id, lead, **fields)

    def command(self, command: PersonsCommand, lead: str = "lead-1") -> Entry:
        return self.raw(encode_command(command), lead, kind="cmd")

    def raw(self, body: bytes, lead: str = "lead-1", kind: str = "in", *, business: str = BUSINESS) -> Entry:
        token = tokens.encode(lead)
        partition = tokens.partition_of(business, token)
        subject = [b"partition", b"%d" % partition, kind.encode(), business.encode(), token.encode()]
        entry = Entry(partition, len(self.entries) + 1, subject, body)
        self.entries.append(entry)
        return entry


#: An action's target, or its several targets in order.
Outside = Target | tuple[Target, ...]


def classes_of(outside: Outside) -> Classes:
    """The idempotency classes of an action's targets, as `domain_rules.playbook` takes them."""
    return tuple(t.idempotency for t in outside) if isinstance(outside, tuple) else outside.idempotency


def named(targets: Mapping[str, Outside]) -> Iterator[tuple[str, tuple[str, Target]]]:
    """Each target with its action, under the name that its route has."""
    routes = routes_of({of: classes_of(outside) for of, outside in targets.items()})
    for of, outside in targets.items():
        several = outside if isinstance(outside, tuple) else (outside,)
        for route, target in zip(routes[of], several, strict=True):
            yield route.target, (of.partition("@")[0], target)


class ProcessIsGone(BaseException):
    """What a crashed process's threads come upon."""


class ActorSystem:
    """One process. Deliver with `read`; wait with `settle`; end with `stop` or `crash`."""

    def __init__(
        self,
        folder: Path,
        log: Log,
        targets: Mapping[str, Outside] | None = None,
        *,
        clock: Clock | None = None,
        timers: Timers | Scheduler | None = None,
        limits: LeadLimits | None = None,
        policy: BreakerPolicy | None = None,
        retry: RetryPolicy | None = None,
        workers: int = 4,
        rate: float | None = None,
        threads: int = 2,
        modules: tuple[ModuleType, ...] = (),
    ) -> None:
        self.folder = folder
        self.log = log
        self.outside = targets or {}
        #: Name of each target's breaker → its action and the target.
        self._named = dict(named(self.outside))
        self.clock = clock or ManualClock()
        self.timers: Any = timers or Timers()
        self.policy = policy or BreakerPolicy()
        self.workers = workers
        self.rate = rate
        self.dead = False
        self.deaths: list[tuple[str, BaseException]] = []
        self.replies = KeptReplies()
        self.dispatcher = Dispatcher(threads)
        self.positions = Positions(PARTITIONS)
        self.directory = Directory(limits or LeadLimits(restart_delays=(1.0, 5.0)), self.timers.arm)
        self.targets = dict(self._target_parts())
        self.calls = CallRegistry(self.directory.tell, self.targets.__contains__)
        classes = {of: classes_of(outside) for of, outside in self.outside.items()}
        self.playbook = playbook(classes, retry=retry, modules=modules)
        self.breakers: dict[str, BreakerActor] = {}
        self.rejects: list[RejectsActor] = []
        self._read_to = 0
        self._ended = False

    # A process's life.

    def start(self, *, read: bool = True) -> ActorSystem:
        """Begin where the store's positions stand; by default read what the log holds already."""
        self.recorder = open_recorder(self.folder / "events.db")
        self._die_with_me("insert_rows")
        self._die_with_me("insert_tracking")
        self.store = EventStore(self.recorder)
        self._start_journal()
        self.dispatcher.start()
        self._open_directory()
        begin = [self.store.read_position(position_name(p, INCARNATION)) or 0 for p in range(PARTITIONS)]
        self.positions.begin(INCARNATION, begin)
        self._begin = begin
        self.entry_reader = EntryReader(self.playbook.tenants, self.directory, self.positions)
        self.entry_reader.incarnation = INCARNATION
        if read:
            self.read()
        return self

    def read(self, *, limit: int | None = None) -> None:
        """Take what is new in the log, as the intake does."""
        end = len(self.log.entries) if limit is None else min(len(self.log.entries), self._read_to + limit)
        for entry in self.log.entries[self._read_to : end]:
            if entry.sequence > self._begin[entry.partition]:
                self.entry_reader.read(entry.partition, entry.sequence, entry.subject, b"", entry.body)
        self._read_to = end

    def checkpoint(self) -> None:
        """The positions are written on return."""
        written = threading.Event()
        self.journal.checkpoint(self.positions.unwritten(), written.set)
        assert written.wait(10)

    def crash(self) -> None:
        """The process is gone, with all it had in memory; no commit and no call leaves it any more."""
        self.dead = True
        self._end()

    def stop(self) -> None:
        """An end in peace: what was begun has been settled by the test."""
        self._end()

    # What tests ask.

    def settle(self, within: float = 20.0) -> None:
        """Wait until nobody has anything to do but wait for timers and held calls."""
        eventually(lambda: self._idle() and self._idle(), within=within, every=0.002)
        assert not self.deaths, self.deaths

    def events(self, lead: str = "lead-1", business: str = BUSINESS) -> list[Event]:
        return [recorded.event for recorded in self.history(stream_of(lead, business))]

    def history(self, stream: str) -> list[Recorded]:
        return list(self.store.stream(stream))

    def kinds(self, lead: str = "lead-1", business: str = BUSINESS) -> list[str]:
        return [type(event).__name__ for event in self.events(lead, business)]

    def everything(self) -> list[Recorded]:
        return list(self.store.read(0, 10_000_000))

    def fire(self, address: str, slot: str = "") -> None:
        """The timer of an address runs out."""
        self.directory.tell(address, self.timers.take(address, slot))

    def restart_lead(self, lead: str = "lead-1") -> None:
        """The pause after a failure is over."""
        address = f"restart:{stream_of(lead)}"
        eventually(lambda: (address, "") in self.timers.pending)
        self.fire(address)
        self.settle()

    def position_is_complete(self) -> bool:
        """Everything read is recorded."""
        return self.positions.in_hand() == 0

    # How it is put together.

    def _target_parts(self) -> Any:
        executors = discover()
        for name, (action, target) in self._named.items():
            perform = self._while_alive(performer(executors[action], target))
            once = target.idempotency == "once"
            yield name, TargetParts(name, perform, self.policy, self.workers, 0.05, once, self.rate)

    def _while_alive(self, perform: Callable[[ActionCall], Any]) -> Callable[[ActionCall], Any]:
        def guarded(call: ActionCall) -> Any:
            if self.dead:
                raise ProcessIsGone
            return perform(call)

        return guarded

    def _die_with_me(self, name: str) -> None:
        write = getattr(self.recorder, name)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise ProcessIsGone
            return write(*args, **kwargs)

        setattr(self.recorder, name, guarded)

    def _start_journal(self) -> None:
        self._journal_ref = JournalActor.start(
            self.recorder, self.positions, max_appends=1000, on_death=lambda e: self._died("journal", e)
        )
        actor = self._journal_ref._actor_weakref()
        assert isinstance(actor, JournalActor)
        self.journal_actor = actor
        self.journal = JournalHandle(actor)

    def _open_directory(self) -> None:
        nonce, numbers = secrets.token_hex(4), itertools.count(1)
        self.arrivals = Arrivals(self.store)
        recording = Recording(
            dispatcher=self.dispatcher,
            journal=self.journal,
            clock=self.clock,
            next_event_id=lambda: f"{nonce}-{next(numbers):x}",
            tell=self.directory.tell,
            load=self.arrivals.load,
            backwards=self.store.backwards,
            snapshot=self.store.snapshot,
            keep=self.journal.keep,
        )
        for name, target in self.targets.items():
            actor = BreakerActor(target, recording, self.calls, self.timers.arm, self._died)
            self.breakers[name] = actor
            self.directory.install(actor)
            actor.load()
        stopped, resuming = self._install_rejects(recording)
        parts = LeadParts(
            recording=recording,
            playbook=self.playbook,
            calls=self.calls,
            arm=self.timers.arm,
            positions=self.positions,
            replies=self.replies,
            woken=self.arrivals.woken,
            recovered=self.directory.recovered,
            crashed=self.directory.crashed,
        )
        self.directory.open(parts, stopped, resuming)
        self.directory.wake(self.breakers[name].actor_urn for name in self.breakers)

    def _install_rejects(self, recording: Recording) -> tuple[set[str], set[str]]:
        parts = RejectsParts(
            recording=recording,
            tenants=self.playbook.tenants,
            positions=self.positions,
            replies=self.replies,
            resumed=self.directory.resumed,
            still_stopped=self.directory.still_stopped,
            tell=self.directory.tell,
            answered=self.directory.answered,
            answer_in=self.store.answer_in,
            read_position=self.store.read_position,
            on_death=self._died,
        )
        stopped: set[str] = set()
        resuming: set[str] = set()
        for partition in range(PARTITIONS):
            actor = RejectsActor(partition, parts)
            actor.load()
            stopped |= actor.stopped_leads()
            resuming |= actor.being_resumed()
            self.rejects.append(actor)
            self.directory.install(actor)
        return stopped, resuming

    def _died(self, who: str, error: BaseException) -> None:
        if not self.dead:
            self.deaths.append((who, error))

    def _idle(self) -> bool:
        leads: list[LeadActor] = list(self.directory._leads.values())
        actors = [*leads, *self.rejects, *self.breakers.values()]
        boxes = all(not (a.actor_inbox.scheduled or a.actor_inbox.mail) and a.at_rest() for a in actors)
        return boxes and self._calls_at_rest() and self.journal_actor.actor_inbox.empty()

    def _calls_at_rest(self) -> bool:
        """Every call that can end has ended: a target that holds calls keeps its own, and those behind them."""
        for name, (_, target) in self._named.items():
            if isinstance(target, HeldTarget) and target.holds:
                continue
            breaker = self.breakers[name]
            if breaker._out or breaker.staff.running or not breaker.staff.jobs.empty():
                return False
        held = sum(breaker.held() for breaker in self.breakers.values())
        holds = any(getattr(target, "holds", False) for _, target in self._named.values())
        return self.calls.count() == held or holds

    def _end(self) -> None:
        if self._ended or not hasattr(self, "journal"):
            return
        self._ended = True
        if isinstance(self.timers, Scheduler):
            self.timers.stop()
        self._journal_ref.stop(block=False)
        eventually(lambda: not self._journal_ref.is_alive() or self.journal_actor.actor_stopped.is_set())
        for breaker in self.breakers.values():
            breaker.staff.stop()
        self.dispatcher.stop()
        self.store.close()


Boot = Callable[..., ActorSystem]


@contextmanager
def booting(folder: Path) -> Iterator[Boot]:
    """Starts processes on one folder; whatever still runs at the end is killed."""
    with ExitStack() as at_end:

        def boot(
            log: Log, targets: Mapping[str, Outside] | None = None, *, read: bool = True, **options: Any
        ) -> ActorSystem:
            system = ActorSystem(folder, log, targets, **options)
            at_end.callback(system.crash)
            return system.start(read=read)

        yield boot


def stream_of(lead: str = "lead-1", business: str = BUSINESS) -> str:
    return tokens.lead_stream(business, tokens.encode(lead))


def rejects_of(lead: str = "lead-1") -> str:
    """The stream that holds what this lead's partition could not take."""
    return tokens.rejects_stream(tokens.partition_of(BUSINESS, tokens.encode(lead)))
