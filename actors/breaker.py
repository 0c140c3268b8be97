"""Stop 5 of 7: the breakers' supervisors. One a target: lets calls through, owns the workers, answers for each.

The rules are `domain/breaker.py` and `domain/pace.py`; here they are applied. What may not live here: what a
call says (executors), and whether to try again (the lead's saga). Calls block on the workers' own threads,
never on the pool.

A call that may not go out now waits where that costs least. Behind an open breaker its lead waits, for it may be
long. For its turn (the target's workers, its rate, a pause that it asked for) a call of a *once* target waits in
its lead too, which asks before it begins: a crash makes every begun call of such a target unknown. Any other waits
here, at no append.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog
from msgspec import Struct

from actors.calls import PARKED_US, CallRegistry
from actors.protocol import Wake
from actors.recording import Cause, Recording, RecordingActor
from actors.turns import Turns, Waiting
from actors.worker import CallEnded, Job, Staff
from domain import breaker
from domain.breaker import Breaker, BreakerPolicy
from domain.commands import EndWait
from domain.events import BreakerClosed, BreakerOpened, Event, Recorded
from domain.outcomes import Failed, Misconfigured, NotCalled, Outcome, Unknown
from domain.ports import ActionCall

log = structlog.get_logger(__name__)

#: A call refused by an open breaker asks again no sooner.
_SOONEST_US = 50_000
#: How often calls at work are looked at for one that does not come back.
_WATCH_SECONDS = 1.0


class TimeIsUp(Struct, frozen=True):
    """The open time is over."""


class RoomAgain(Struct, frozen=True):
    """The target's rate lets another call out, the pause is over that it asked for, or somebody waits who did not."""


class Watch(Struct, frozen=True):
    """Look for calls that do not come back, and for room that nobody uses."""


class TargetParts(Struct, frozen=True):
    """One target: how to call it, how many calls at once, and when to give up on one, in seconds."""

    name: str
    perform: Callable[[ActionCall], Outcome]
    policy: BreakerPolicy
    workers: int
    timeout: float
    #: Its calls may not be repeated: each is begun only when it can be made at once.
    once: bool = False
    #: Calls begin no closer together than this rate; None for no limit.
    calls_per_second: float | None = None
    #: A pause that the target asks for is honoured up to this, in seconds.
    longest_pause: float = 300.0


class BreakerActor(RecordingActor):
    """Owns `breaker:<target>` and that target's workers. If its own code raises, the process ends."""

    __slots__ = (
        "_begin",
        "_breaker",
        "_out",
        "_room_is_armed",
        "_turns",
        "_version",
        "_watching",
        "arm",
        "calls",
        "lets_through",
        "on_death",
        "staff",
        "target",
    )

    def __init__(
        self,
        target: TargetParts,
        recording: Recording,
        calls: CallRegistry,
        arm: Callable[..., None],
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        super().__init__(f"breaker:{target.name}", recording)
        self.target = target
        self.calls = calls
        self.arm = arm
        self.on_death = on_death
        #: Transitions before those that are read.
        self._begin = 0
        self.reset()
        self.staff = Staff(self, target.workers)
        #: (key, attempt) of the calls let out and not answered for → the breaker's generation then.
        self._out: dict[tuple[str, int], int] = {}
        clock, workers = recording.clock, target.workers if target.once else None
        self._turns = Turns(target.calls_per_second, target.longest_pause, clock.monotonic, workers=workers)
        self._room_is_armed = False
        self._watching = False
        #: Read by the workers: whether a job that is no probe may still go out.
        self.lets_through = True
        if target.once:
            calls.desks[target.name] = self

    def load(self) -> None:
        """From the last transition on that says all: what was before it is not read."""
        newest_first = self.parts.backwards(self.actor_urn)
        self._begin = next((r.version - 1 for r in newest_first if breaker.is_whole(r.event)), 0)
        super().load()

    def reset(self) -> None:
        self._breaker = Breaker(self.target.name, generation=self._begin)
        self._version = self._begin

    def fold(self, recorded: Recorded) -> None:
        self._version = recorded.version
        self._breaker = breaker.evolve(self._breaker, recorded.event)
        self.lets_through = self._breaker.state == "closed"

    def loaded(self) -> None:
        if self._breaker.state == "open":
            self._arm_half_open()

    def version(self) -> int:
        return self._version

    def handle(self, message: Any, now: datetime) -> None:
        kind = type(message)
        if kind is ActionCall:
            self._let_out(message)
        elif kind is CallEnded:
            self._take_back(message, now)
        elif kind is TimeIsUp:
            self._half_open(now)
        elif kind is RoomAgain:
            self._room_is_armed = False
            self._go_on()
            self._keep_watch()
        elif kind is Watch:
            self._watch(now)
        elif kind is Wake and self._breaker.configuration:
            self._half_open(now)  # the runner has started: the settings may be other ones now

    def settled(self, batch: Sequence[Any]) -> None:
        """Nothing waits for a transition to be durable: calls go out by the state as it is."""

    def conflicted(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Another process moved this breaker. What the batch led to has left already: handled again, its calls
        would go out twice. The state is read anew, and looked at."""
        return (Watch(),)

    def on_crash(self, error: BaseException, current: Any) -> None:
        self.on_death(self.actor_urn, error)

    def held(self) -> int:
        """How many calls wait here for their turn. Any thread."""
        return len(self._turns.held)

    def held_keys(self) -> set[str]:
        """Their keys. Any thread."""
        return {call.key for call in self._turns.held.copy()}

    # What leads ask, from their own threads. Whatever moves on meanwhile: who is refused is told when there is room.

    def ask(self, asker: Waiting) -> NotCalled | None:
        before = self._breaker
        if self._turns.take(asker, breaker.room(before, self.target.policy)):
            return None
        self.parts.tell(self.actor_urn, RoomAgain())
        return NotCalled(PARKED_US, "busy") if before.state == "closed" else self._refusal(before)

    def give_back(self, key: str) -> None:
        if self._turns.give_back(key):
            self.parts.tell(self.actor_urn, RoomAgain())

    # What the workers ask and tell, from their own threads.

    def may_go_out(self, job: Job) -> bool:
        """Not behind a breaker that has opened meanwhile, and not into a pause."""
        return job.probe or (self.lets_through and not self._turns.is_paused())

    def perform(self, call: ActionCall) -> Outcome:
        return self.target.perform(call)

    def ended(self, ended: CallEnded) -> None:
        if type(ended.outcome) is Failed and ended.outcome.throttled:
            seconds = self._turns.pause(ended.outcome.retry_after_us)
            if seconds:
                log.info("target asks for a pause", target=self.target.name, seconds=seconds)
        self.parts.tell(self.actor_urn, ended)

    # Calls come and go out.

    def _let_out(self, call: ActionCall) -> None:
        room = breaker.room(self._breaker, self.target.policy)
        if room <= 0:
            self._wait_for(call, self._refusal(self._breaker))
        elif self._turns.is_it(call, room):
            self._send(call)
        else:
            self._queue(call)

    def _send(self, call: ActionCall) -> None:
        probe = self._breaker.state == "half_open"
        self._breaker = breaker.let_out(self._breaker)
        self._turns.went_out(call)
        self._out[call.key, call.attempt] = self._breaker.generation
        self.staff.put(Job(call, probe), len(self._out))
        self._keep_watch()

    def _refusal(self, state: Breaker) -> NotCalled:
        """The breaker lets nothing through: no failure of the target but its settings has no deadline. Any thread."""
        if state.configuration:
            return NotCalled(PARKED_US, "target_configuration")
        now_us = breaker.to_us(self.parts.clock.now())
        return NotCalled(max(_SOONEST_US, breaker.retry_in_us(state, now_us)))

    def _queue(self, call: ActionCall) -> None:
        """The target takes no more calls now."""
        if self.target.once:
            self._wait_for(call, NotCalled(PARKED_US, "busy"))
        else:
            self._turns.held.append(call)
        self._arm_room()

    def _wait_for(self, call: ActionCall, why: NotCalled | Misconfigured) -> None:
        """The lead waits, and is told when it may ask again; its own timer is for when that is lost."""
        self._turns.waits(Waiting(call.key, call.stream, call.attempt - 1))
        self.calls.end(call, why)
        self._keep_watch()

    # Calls end.

    def _take_back(self, ended: CallEnded, now: datetime) -> None:
        call, outcome = ended.call, ended.outcome
        generation = self._out.pop((call.key, call.attempt), None)
        if ended.last:
            self.staff.gone(ended.worker, len(self._out))
        if generation is None:
            return  # given up on before it came back
        self._turns.came_back(call)
        if type(outcome) is NotCalled:
            self._let_out(call)  # what kept the worker from it keeps it here
            return
        self._end(call, outcome, generation, now)

    def _end(self, call: ActionCall, outcome: Outcome, generation: int, now: datetime) -> None:
        """A call is over: the breaker counts it, its lead is told, and who waits may come."""
        self._count(outcome, generation, now)
        if type(outcome) is Misconfigured:
            self._wait_for(call, outcome)
        else:
            self.calls.end(call, outcome)
        if self._turns.leads and self.lets_through:
            self._go_on()

    def _count(self, outcome: Outcome, generation: int, now: datetime) -> None:
        before = self._breaker
        self._breaker, events = breaker.came_back(
            before,
            self.target.policy,
            breaker.ended_as(outcome),
            error=getattr(outcome, "error", ""),
            now_us=breaker.to_us(now),
            generation=generation,
        )
        if events:
            self._record_transition(events, now)
        for event in events:
            if isinstance(event, BreakerOpened):
                self._opened(event, before)
            elif isinstance(event, BreakerClosed):
                log.info("breaker closed", breaker=self.target.name)
                self._go_on()

    def _opened(self, event: BreakerOpened, before: Breaker) -> None:
        why = "switched off" if event.switched_off else "configuration" if event.configuration else "failures"
        log.warning("breaker opened", breaker=self.target.name, why=why, error=event.error)
        self._arm_half_open()
        while self._turns.held:
            call = self._turns.held.popleft()
            self._wait_for(call, self._refusal(self._breaker))
        if event.configuration and before.state == "half_open" and not before.configuration:
            self._tell(self._turns.all_leads())  # their waits have a deadline, and are to have none

    def _record_transition(self, events: Sequence[Event], now: datetime) -> None:
        """The rule has applied its transition already; recording would apply it again."""
        after = self._breaker
        self.record(events, now, Cause())
        self._breaker = after
        self.lets_through = after.state == "closed"

    def _half_open(self, now: datetime) -> None:
        self._breaker, events = breaker.time_is_up(self._breaker)
        if events:
            self._record_transition(events, now)
            self._go_on()
            self._keep_watch()

    def _arm_half_open(self) -> None:
        if not self._breaker.switched_off:
            now_us = breaker.to_us(self.parts.clock.now())
            self.arm(self.actor_urn, TimeIsUp(), breaker.retry_in_us(self._breaker, now_us) / 1e6, "open")

    # Who waits is let go.

    def _go_on(self) -> None:
        """Let in those that wait, as far as the target takes calls now."""
        self._turns.pause_is_over()
        while (call := self._turns.next_held()) is not None:
            if breaker.admits(self._breaker, self.target.policy):
                self._send(call)
            else:
                self._wait_for(call, self._refusal(self._breaker))
        self._tell(self._turns.next_leads(breaker.room(self._breaker, self.target.policy)))
        self._arm_room()

    def _tell(self, leads: Sequence[Waiting]) -> None:
        """Let waiting leads ask again before their time."""
        for lead in leads:
            self.parts.tell(lead.stream, EndWait(lead.key, lead.attempt))

    def _arm_room(self) -> None:
        """Wake up when the next call may go out, if one waits for that."""
        if not self._turns.limited or self._room_is_armed or self._breaker.state == "open":
            return
        delay_us = self._turns.look_again_us()
        if delay_us is not None:
            self._room_is_armed = True
            self.arm(self.actor_urn, RoomAgain(), delay_us / 1e6, "room")

    # Calls that do not come back.

    def _keep_watch(self) -> None:
        if not self._watching and (self._out or (self._turns.leads and self._breaker.state != "open")):
            self._watching = True
            self.arm(self.actor_urn, Watch(), _WATCH_SECONDS, "watch")

    def _watch(self, now: datetime) -> None:
        """Answer for calls whose worker does not come back, and put another worker in its place."""
        patience = self.target.timeout * 1.5 + 1.0
        for number, call in self.staff.longer_than(patience):
            generation = self._out.pop((call.key, call.attempt), None)
            if generation is not None:
                self._turns.came_back(call)
                log.error("call does not come back", target=self.target.name, key=call.key)
                self.staff.replace(number, call, len(self._out))
                self._end(call, Unknown(f"no answer within {patience:.0f} s"), generation, now)
        self._turns.lose_late()
        if self._turns.leads:
            self._go_on()  # who was told to come may have been put to other things
        self._watching = False
        self._keep_watch()
