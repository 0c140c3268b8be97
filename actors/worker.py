"""A target's workers: each makes one call at a time, on a thread of its own, which may block."""

from __future__ import annotations

import time
from queue import SimpleQueue
from typing import Any, Protocol

from msgspec import Struct
from pykka import ActorRef, ThreadingActor
from pykka._envelope import Envelope

from actors.stretch import Stretch
from domain.outcomes import NotCalled, Outcome, Unknown
from domain.ports import ActionCall


class Job(Struct, frozen=True):
    """A call let out; a probe goes out also while the breaker is half-open."""

    call: ActionCall
    probe: bool


class CallEnded(Struct, frozen=True):
    """A worker is through with a call."""

    call: ActionCall
    outcome: Outcome
    worker: int
    #: The worker's thread ends with it: its code raised what no code should.
    last: bool = False


class Supervisor(Protocol):
    """What a worker needs of the breaker that owns it. All of it from the worker's thread."""

    def may_go_out(self, job: Job) -> bool:
        """Whether a job may still be done now that a worker is free for it."""
        ...

    def perform(self, call: ActionCall) -> Outcome: ...

    def ended(self, ended: CallEnded) -> None: ...


class Worker(ThreadingActor):
    """Makes calls, one at a time, from the jobs that its supervisor's workers share.

    Whatever a target's code raises is an unknown outcome: it may have happened. What is no `Exception`
    ends the worker too, and the supervisor starts another when it needs one [H20].
    """

    use_daemon_thread = True

    def __init__(self, number: int, supervisor: Supervisor, staff: Staff) -> None:
        super().__init__()
        self.actor_inbox = staff.jobs
        self._actor_ref = ActorRef(self)
        self._number = number
        self._supervisor = supervisor
        self._staff = staff

    def on_receive(self, job: Job) -> None:
        supervisor, staff, call = self._supervisor, self._staff, job.call
        if not supervisor.may_go_out(job):
            self._ended(call, NotCalled(0))
            return
        staff.running[self._number] = (call, time.monotonic())
        try:
            with Stretch() as stretch:
                staff.stretches[call.key, call.attempt] = stretch
                outcome = supervisor.perform(call)
        except Exception as error:  # the target's own code: nobody knows how far it came
            outcome = Unknown(f"the target's code raised {type(error).__name__}: {error}")
        except BaseException as error:
            self._ended(call, Unknown(f"the target's code raised {type(error).__name__}"), last=True)
            self._stop()
            return
        self._ended(call, outcome)
        if self._number in staff.replaced:  # it hung, and another has taken its place
            self._stop()

    def _actor_loop_teardown(self) -> None:
        """Pykka empties the inbox of an actor that ends: this one's holds the calls of the others."""
        self._staff.replaced.discard(self._number)

    def _ended(self, call: ActionCall, outcome: Outcome, *, last: bool = False) -> None:
        self._staff.running.pop(self._number, None)
        self._staff.stretches.pop((call.key, call.attempt), None)
        self._supervisor.ended(CallEnded(call, outcome, self._number, last))


class Staff:
    """The workers of one target: as many as calls are out, and another in the place of one that does not come back.

    Hired and replaced by the supervisor; what is written while they work, they write.
    """

    def __init__(self, supervisor: Supervisor, most: int) -> None:
        self._supervisor = supervisor
        self._most = most
        self._next = 0
        self.jobs: SimpleQueue[Envelope[Any]] = SimpleQueue()
        self.workers: dict[int, ActorRef[Worker]] = {}
        #: What each worker is at, and since when; written by the workers.
        self.running: dict[int, tuple[ActionCall, float]] = {}
        #: Workers in whose place another stands: each ends with the call that it is at.
        self.replaced: set[int] = set()
        #: (key, attempt) of each call that is at work → what breaks it off; written by the workers.
        self.stretches: dict[tuple[str, int], Stretch] = {}

    def put(self, job: Job, out: int) -> None:
        """A job for whoever is free; `out` calls are out with it."""
        self._hire(out)
        self.jobs.put(Envelope(job))

    def gone(self, number: int, out: int) -> None:
        """A worker has ended by itself; others' calls may wait behind its last one, `out` in all."""
        self.workers.pop(number, None)
        self._hire(out)

    def longer_than(self, seconds: float) -> list[tuple[int, ActionCall]]:
        """Workers that are at one call for so long, and the call."""
        since = time.monotonic() - seconds
        return [(number, call) for number, (call, began) in list(self.running.items()) if began < since]

    def replace(self, number: int, call: ActionCall, out: int) -> None:
        """Another in the place of the worker whose call does not come back; the call's code is broken off."""
        self.running.pop(number, None)
        self.workers.pop(number, None)
        self.replaced.add(number)
        self.stretches.get((call.key, call.attempt), Stretch()).break_off()  # a new one is nobody's
        self._hire(out)

    def stop(self) -> None:
        """End the workers that are idle; one at a call is left to the end of the process."""
        for ref in self.workers.values():
            ref.stop(block=False)

    def _hire(self, out: int) -> None:
        while len(self.workers) < min(out, self._most):
            number = self._next
            self._next += 1
            self.workers[number] = Worker.start(number, self._supervisor, self)
