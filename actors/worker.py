"""A target's worker: one call at a time, on a thread of its own, which may block."""

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

    #: What each worker is at, and since when; written by the workers.
    running: dict[int, tuple[ActionCall, float]]
    #: Workers in whose place another stands: each ends with the call that it is at.
    replaced: set[int]
    #: (key, attempt) of each call that is at work → what whoever gives up on it breaks off.
    stretches: dict[tuple[str, int], Stretch]

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

    def __init__(self, number: int, supervisor: Supervisor, jobs: SimpleQueue[Envelope[Any]]) -> None:
        super().__init__()
        self.actor_inbox = jobs
        self._actor_ref = ActorRef(self)
        self._number = number
        self._supervisor = supervisor

    def on_receive(self, job: Job) -> None:
        supervisor, call = self._supervisor, job.call
        if not supervisor.may_go_out(job):
            self._ended(call, NotCalled(0))
            return
        supervisor.running[self._number] = (call, time.monotonic())
        try:
            with Stretch() as stretch:
                supervisor.stretches[call.key, call.attempt] = stretch
                outcome = supervisor.perform(call)
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
        self._supervisor.replaced.discard(self._number)

    def _ended(self, call: ActionCall, outcome: Outcome, *, last: bool = False) -> None:
        self._supervisor.running.pop(self._number, None)
        self._supervisor.stretches.pop((call.key, call.attempt), None)
        self._supervisor.ended(CallEnded(call, outcome, self._number, last))
