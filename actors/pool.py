"""Actors without a thread each: a Pykka actor type that runs on a small pool of dispatcher threads.

An actor with mail stands once in the run queue, handles a bounded number of messages, and goes back.
An idle one costs memory only. Such an actor must not block. What may not live here: anything that knows
what the messages mean.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Protocol

import pykka
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

#: Messages that an actor handles before another has its turn.
TURN = 64


class Runnable(Protocol):
    """What a dispatcher thread can run."""

    actor_urn: str

    def run_turn(self) -> None: ...

    def busy_since(self) -> float | None:
        """When it began with what it is at, monotonic; None of one that does not say."""
        ...


class Dispatcher:
    """The run queue and its threads. An actor is in it at most once, so it never runs on two of them."""

    def __init__(self, threads: int = 2) -> None:
        self._runnable: SimpleQueue[Runnable | None] = SimpleQueue()
        #: Thread → the actor whose turn it runs, and since when.
        self._busy: dict[int, tuple[Runnable, float]] = {}
        self._threads = [self._thread() for _ in range(threads)]
        #: Threads in whose place another stands.
        self._left: list[threading.Thread] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after the turns queued already. A thread stuck in a turn is left to the process's end."""
        for _ in self._threads:
            self._runnable.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def schedule(self, actor: Runnable) -> None:
        self._runnable.put(actor)

    def busy(self) -> list[tuple[Runnable, float]]:
        """(actor, since when it is at the same message, monotonic) of each thread at work [H11]."""
        turns = list(self._busy.copy().values())
        return [(actor, max(began, actor.busy_since() or began)) for actor, began in turns]

    def replace(self, actor: Runnable) -> None:
        """Another thread in the place of the one that runs this actor's turn, which ends when that does, if ever."""
        for slot, thread in enumerate(self._threads):
            turn = self._busy.get(thread.ident or 0)
            if turn is not None and turn[0] is actor:
                self._left.append(thread)
                self._threads[slot] = self._thread()
                self._threads[slot].start()
                self._left = [thread for thread in self._left if thread.is_alive()]
                return

    def waiting(self) -> int:
        """Actors in the run queue."""
        return self._runnable.qsize()

    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def _thread(self) -> threading.Thread:
        return threading.Thread(target=self._run, name="pool", daemon=True)

    def _run(self) -> None:
        me = threading.current_thread()
        ident = threading.get_ident()
        while me not in self._left:
            actor = self._runnable.get()
            if actor is None:
                return
            self._busy[ident] = (actor, time.monotonic())
            actor.run_turn()
            del self._busy[ident]


class PooledInbox:
    """An actor's mail. Putting schedules the actor; once retired, nothing is taken any more [H19]."""

    __slots__ = ("actor", "dispatcher", "lock", "mail", "retired", "scheduled")

    def __init__(self, actor: Runnable, dispatcher: Dispatcher) -> None:
        self.actor = actor
        self.dispatcher = dispatcher
        self.lock = threading.Lock()
        self.mail: deque[Envelope[Any]] = deque()
        self.scheduled = False
        self.retired = False

    def put(self, envelope: Envelope[Any], /) -> bool:
        """False if the actor has retired: the mail was not taken, and another actor has to be found."""
        with self.lock:
            if self.retired:
                return False
            self.mail.append(envelope)
            if self.scheduled:
                return True
            self.scheduled = True
        self.dispatcher.schedule(self.actor)
        return True

    def put_all(self, envelopes: Sequence[Envelope[Any]]) -> bool:
        """As `put`, for several: nobody's mail comes between them, and no turn begins before the last is in."""
        with self.lock:
            if self.retired:
                return False
            self.mail.extend(envelopes)
            if self.scheduled or not self.mail:
                return True
            self.scheduled = True
        self.dispatcher.schedule(self.actor)
        return True

    def get(self) -> Envelope[Any]:
        return self.mail.popleft()

    def empty(self) -> bool:
        return not self.mail

    def end_turn(self) -> None:
        """Go back to the run queue if mail has come meanwhile."""
        with self.lock:
            if not self.mail or self.retired:
                self.scheduled = False
                return
        self.dispatcher.schedule(self.actor)

    def retire_if(self, at_rest: Callable[[], bool]) -> bool:
        """Retire only where no mail waits, no turn runs, and the actor is at rest: the compare-and-set that
        sleeping is. No turn can begin while the lock is held, so `at_rest` sees a state that stands [H19]."""
        with self.lock:
            if self.scheduled or self.mail or not at_rest():
                return False
            self.retired = True
            return True

    def retire(self) -> list[Envelope[Any]]:
        """Take no more mail; what was in the box comes back."""
        with self.lock:
            self.retired = True
            left = list(self.mail)
            self.mail.clear()
            return left


class PooledActor(pykka.Actor):
    """A Pykka actor that runs on a `Dispatcher`. A told message that raises stops it, as Pykka's do.

    Subclasses implement `on_receive`, may implement `on_turn_end` (after each turn's messages), and learn
    of their own end through `on_crash`. It is slim on purpose: no uuid, no Event, no reference until asked
    for one; 100,000 of them live in one process.
    """

    __slots__ = ("_ref", "actor_inbox", "actor_urn", "stopped")

    actor_inbox: PooledInbox  # type: ignore[assignment]  # its `put` also says whether the mail was taken

    def __init__(self, urn: str, dispatcher: Dispatcher) -> None:  # Pykka's own __init__ costs 33 µs
        self.actor_urn = urn
        self.actor_inbox = PooledInbox(self, dispatcher)
        self.stopped = False
        self._ref: pykka.ActorRef[Any] | None = None

    @property
    def actor_stopped(self) -> threading.Event:  # type: ignore[override]  # made for whoever asks
        event = threading.Event()
        if self.stopped:
            event.set()
        return event

    @property
    def actor_ref(self) -> pykka.ActorRef[Any]:
        if self._ref is None:
            self._ref = pykka.ActorRef(self)
        return self._ref

    @staticmethod
    def _create_actor_inbox() -> PooledInbox:  # type: ignore[override]  # as above
        raise NotImplementedError("a pooled inbox belongs to an actor and a dispatcher")

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return pykka.ThreadingFuture()

    def _start_actor_loop(self) -> None:
        """Nothing to start: the first mail schedules the actor."""

    def run_turn(self) -> None:
        """Handle up to `TURN` messages. Called by a dispatcher thread. Raises only where `on_crash` does: what was
        to keep the actor's mail has failed, so the thread ends, and the process with it."""
        inbox = self.actor_inbox
        mail, on_receive = inbox.mail, self.on_receive
        envelope: Envelope[Any] | None = None
        try:
            for _ in range(TURN):
                if not mail:
                    break
                envelope = mail.popleft()
                if envelope.reply_to is None and type(envelope.message) is not _ActorStop:
                    on_receive(envelope.message)
                    continue
                self._handle(envelope)
                if self.stopped:
                    return
            envelope = None
            self.on_turn_end()
        except BaseException as error:  # SystemExit of a handler must not stop all actors [H20]
            self.stopped = True
            self._crashed(error, envelope)
            return
        inbox.end_turn()

    def busy_since(self) -> float | None:
        return None

    def on_turn_end(self) -> None:
        """Run after the messages of a turn have been received."""

    def on_crash(self, error: BaseException, current: Any) -> None:
        """Run when the actor's code raised; `current` is the message it raised at, None at the turn's end."""

    def _crashed(self, error: BaseException, envelope: Envelope[Any] | None) -> None:
        if envelope is not None and envelope.reply_to is not None:
            envelope.reply_to.set_exception(sys.exc_info())
        self.on_crash(error, envelope.message if envelope else None)

    def _handle(self, envelope: Envelope[Any]) -> None:
        message = envelope.message
        if isinstance(message, _ActorStop):
            self.stopped = True
            self.actor_inbox.retire()
            self.on_stop()
            response = None
        else:
            response = self.on_receive(message)
        if envelope.reply_to is not None:
            envelope.reply_to.set(response)
