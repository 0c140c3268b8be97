"""Stop 5 of 7: the breakers' supervisors. One a target: lets calls through, owns the workers, answers for each.

The rule is `domain/breaker.py`; here it is applied. What may not live here: what a call says (executors),
and whether to try again (the lead's saga). Calls block on the workers' own threads, never on the pool.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import SimpleQueue
from typing import Any

import structlog
from msgspec import Struct
from pykka import ActorRef, ThreadingActor
from pykka._envelope import Envelope

from actors.recording import Cause, Recording, RecordingActor
from domain import breaker
from domain.breaker import Breaker, BreakerPolicy
from domain.commands import EndWait, RecordOutcome
from domain.events import BreakerClosed, BreakerOpened, Event, Recorded
from domain.outcomes import Failed, NotCalled, Outcome, Unknown
from domain.ports import ActionCall

log = structlog.get_logger(__name__)

#: A call refused by an open breaker asks again no sooner.
_SOONEST_US = 50_000
#: A call that no worker is free for asks again by itself after so long; as a rule it is told before.
_BUSY_US = 15_000_000
#: How often calls at work are looked at for one that does not come back.
_WATCH_SECONDS = 1.0
#: How long to wait before asking again for a target that is not in the settings.
_NO_TARGET_US = 30_000_000


class TimeIsUp(Struct, frozen=True):
    """The open time is over."""


class Watch(Struct, frozen=True):
    """Look for calls that do not come back."""


class CallEnded(Struct, frozen=True):
    """A worker is through with a call."""

    call: ActionCall
    outcome: Outcome
    worker: int
    #: The worker's thread ends with it: its code raised what no code should.
    last: bool = False


class Job(Struct, frozen=True):
    """A call let out; a probe goes out also while the breaker is half-open."""

    call: ActionCall
    probe: bool


class TargetParts(Struct, frozen=True):
    """One target: how to call it, how many calls at once, and when to give up on one, in seconds."""

    name: str
    perform: Callable[[ActionCall], Outcome]
    policy: BreakerPolicy
    workers: int
    timeout: float
    #: Its calls may not be repeated: each is begun only when a worker is free for it.
    once: bool = False
    #: No more calls than this begin in a second.
    calls_per_second: float | None = None


class CallRegistry:
    """Every call that is at work, by key: a key in flight is not begun again [H4]. Any thread."""

    def __init__(self, tell: Callable[[str, Any], None], targets: Callable[[str], bool]) -> None:
        self._tell = tell
        self._is_target = targets
        self._lock = threading.Lock()
        self._attempts: dict[str, int] = {}

    def begin(self, call: ActionCall) -> None:
        with self._lock:
            if self._attempts.get(call.key) == call.attempt:
                return
            self._attempts[call.key] = call.attempt
        if self._is_target(call.target):
            self._tell(f"breaker:{call.target}", call)
        else:
            self.end(call, NotCalled(_NO_TARGET_US, "target_configuration"))

    def end(self, call: ActionCall, outcome: Outcome) -> None:
        """Tell the lead and forget the call, as one step: whoever finds it gone finds the outcome told."""
        with self._lock:
            self._tell(call.stream, RecordOutcome(call.key, call.attempt, outcome))
            if self._attempts.get(call.key) == call.attempt:
                del self._attempts[call.key]

    def in_flight(self, key: str) -> bool:
        with self._lock:
            return key in self._attempts

    def count(self) -> int:
        return len(self._attempts)


class BreakerActor(RecordingActor):
    """Owns `breaker:<target>` and that target's workers. If its own code raises, the process ends."""

    __slots__ = (
        "_breaker",
        "_jobs",
        "_next_worker",
        "_out",
        "_version",
        "_waiting_calls",
        "_watching",
        "arm",
        "calls",
        "lets_through",
        "on_death",
        "replaced",
        "running",
        "target",
        "workers",
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
        self._breaker = Breaker(target.name)
        self._version = 0
        self._jobs: SimpleQueue[Envelope[Any]] = SimpleQueue()
        #: (key, attempt) of the calls let out and not answered for → the breaker's generation then.
        self._out: dict[tuple[str, int], int] = {}
        #: Calls that an open breaker held back: key → (lead, the attempt its wait is known by).
        self._waiting_calls: dict[str, tuple[str, int]] = {}
        self._next_worker = 0
        self._watching = False
        self.workers: dict[int, ActorRef[Worker]] = {}
        #: Workers in whose place another stands: each ends with the call that it is at.
        self.replaced: set[int] = set()
        #: What each worker is at, and since when; written by the workers.
        self.running: dict[int, tuple[ActionCall, float]] = {}
        #: Read by the workers: whether a job that is no probe may still go out.
        self.lets_through = True

    def reset(self) -> None:
        self._breaker = Breaker(self.target.name)
        self._version = 0

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
        if isinstance(message, ActionCall):
            self._let_out(message, now)
        elif isinstance(message, CallEnded):
            self._take_back(message, now)
        elif isinstance(message, TimeIsUp):
            self._breaker, events = breaker.time_is_up(self._breaker)
            self._record_transition(events, now)
            self._release(self.target.policy.probes)
        elif isinstance(message, Watch):
            self._watch(now)

    def settled(self, batch: Sequence[Any]) -> None:
        """Nothing waits for a transition to be durable: calls go out by the state as it is."""

    def conflicted(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Another process moved this breaker. What the batch led to has left already: handled again, its calls
        would go out twice. The state is read anew, and looked at."""
        return (Watch(),)

    def on_crash(self, error: BaseException, current: Any) -> None:
        self.on_death(self.actor_urn, error)

    def stop_workers(self) -> None:
        """End the workers that are idle; one at a call is left to the end of the process."""
        for ref in self.workers.values():
            ref.stop(block=False)

    def _let_out(self, call: ActionCall, now: datetime) -> None:
        if not breaker.admits(self._breaker, self.target.policy):
            self._hold_back(call, now)
            return
        if self.target.once and len(self._out) >= self.target.workers:
            # A crash makes every begun call of such a target unknown: none is begun to stand in a queue.
            self._wait_for(call, NotCalled(_BUSY_US, "busy"))
            return
        probe = self._breaker.state == "half_open"
        self._breaker = breaker.let_out(self._breaker)
        self._waiting_calls.pop(call.key, None)
        self._out[call.key, call.attempt] = self._breaker.generation
        self._staff()
        self._jobs.put(Envelope(Job(call, probe)))
        if not self._watching:
            self._watching = True
            self.arm(self.actor_urn, Watch(), _WATCH_SECONDS, "watch")

    def _hold_back(self, call: ActionCall, now: datetime) -> None:
        wait = max(_SOONEST_US, breaker.retry_in_us(self._breaker, breaker.to_us(now)))
        self._wait_for(call, NotCalled(wait))

    def _wait_for(self, call: ActionCall, why: NotCalled) -> None:
        """The lead waits, and is told when it may ask again; its own timer is for when that is lost."""
        self._waiting_calls[call.key] = (call.stream, call.attempt - 1)
        self.calls.end(call, why)

    def _take_back(self, ended: CallEnded, now: datetime) -> None:
        call, outcome = ended.call, ended.outcome
        generation = self._out.pop((call.key, call.attempt), None)
        if ended.last:
            self.workers.pop(ended.worker, None)
            self._staff()  # others' calls may wait behind the one that ended it
        if generation is None:
            return  # given up on before it came back
        if isinstance(outcome, NotCalled):
            self._hold_back(call, now)
            return
        self._end(call, outcome, generation, now)

    def _end(self, call: ActionCall, outcome: Outcome, generation: int, now: datetime) -> None:
        """A call is over: the breaker counts it, its lead is told, and who waits for a worker may come."""
        self._count(outcome, generation, now)
        self.calls.end(call, outcome)
        if self.target.once and self.lets_through:
            self._release(1)

    def _count(self, outcome: Outcome, generation: int, now: datetime) -> None:
        failed = isinstance(outcome, Unknown) or (isinstance(outcome, Failed) and not outcome.throttled)
        error = getattr(outcome, "error", "")
        self._breaker, events = breaker.came_back(
            self._breaker,
            self.target.policy,
            failed=failed,
            error=error,
            now_us=breaker.to_us(now),
            generation=generation,
        )
        if events:
            self._record_transition(events, now)
        for event in events:
            if isinstance(event, BreakerOpened):
                log.warning("breaker opened", breaker=self.target.name, error=error)
                self._arm_half_open()
            elif isinstance(event, BreakerClosed):
                log.info("breaker closed", breaker=self.target.name)
                self._release(len(self._waiting_calls))

    def _record_transition(self, events: Sequence[Event], now: datetime) -> None:
        """The rule has applied its transition already; recording would apply it again."""
        after = self._breaker
        self.record(events, now, Cause())
        self._breaker = after
        self.lets_through = after.state == "closed"

    def _arm_half_open(self) -> None:
        now_us = breaker.to_us(self.parts.clock.now())
        self.arm(self.actor_urn, TimeIsUp(), breaker.retry_in_us(self._breaker, now_us) / 1e6, "open")

    def _release(self, count: int) -> None:
        """Let waiting calls ask again before their time, longest waiting first."""
        for key in list(self._waiting_calls)[:count]:
            stream, attempt = self._waiting_calls.pop(key)
            self.parts.tell(stream, EndWait(key, attempt))

    def _staff(self) -> None:
        """A worker for each call that is out, up to the target's number."""
        while len(self.workers) < min(len(self._out), self.target.workers):
            number = self._next_worker
            self._next_worker += 1
            self.workers[number] = Worker.start(number, self, self._jobs)

    def _watch(self, now: datetime) -> None:
        """Answer for calls whose worker does not come back, and put another worker in its place."""
        patience = self.target.timeout * 1.5 + 1.0
        since = time.monotonic() - patience
        for number, (call, began) in list(self.running.items()):
            generation = self._out.get((call.key, call.attempt))
            if began < since and generation is not None:
                del self._out[call.key, call.attempt]
                log.error("call does not come back", target=self.target.name, key=call.key)
                self.running.pop(number, None)
                self.workers.pop(number, None)
                self.replaced.add(number)
                self._staff()
                self._end(call, Unknown(f"no answer within {patience:.0f} s"), generation, now)
        self._watching = bool(self._out)
        if self._watching:
            self.arm(self.actor_urn, Watch(), _WATCH_SECONDS, "watch")


class Worker(ThreadingActor):
    """Makes calls, one at a time, from the jobs that its supervisor's workers share.

    Whatever a target's code raises is an unknown outcome: it may have happened. What is no `Exception`
    ends the worker too, and the supervisor starts another when it needs one [H20].
    """

    use_daemon_thread = True

    def __init__(self, number: int, supervisor: BreakerActor, jobs: SimpleQueue[Envelope[Any]]) -> None:
        super().__init__()
        self.actor_inbox = jobs
        self._actor_ref = ActorRef(self)
        self._number = number
        self._supervisor = supervisor

    def on_receive(self, job: Job) -> None:
        supervisor, call = self._supervisor, job.call
        if not (supervisor.lets_through or job.probe):
            self._ended(call, NotCalled(_SOONEST_US))
            return
        supervisor.running[self._number] = (call, time.monotonic())
        try:
            outcome = supervisor.target.perform(call)
        except Exception as error:  # the target's own code: nobody knows how far it came
            outcome = Unknown(f"the target's code raised {type(error).__name__}: {error}")
        except BaseException as error:
            self._ended(call, Unknown(f"the target's code raised {type(error).__name__}"), last=True)
            self._stop()
            return
        self._ended(call, outcome)
        if self._number in supervisor.replaced:  # it hung, and another has taken its place
            self._stop()

    def _actor_loop_teardown(self) -> None:
        """Pykka empties the inbox of an actor that ends: this one's holds the calls of the others."""

    def _ended(self, call: ActionCall, outcome: Outcome, *, last: bool = False) -> None:
        self._supervisor.running.pop(self._number, None)
        self._supervisor.parts.tell(self._supervisor.actor_urn, CallEnded(call, outcome, self._number, last))
