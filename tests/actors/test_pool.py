"""Pooled actors: at most one thread at a time, no mail lost at sleep, nothing that a handler raises ends the pool."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pykka
import pytest
from pykka._envelope import Envelope

from actors.pool import TURN, Dispatcher, PooledActor
from tests.support.eventually import eventually


class Counter(PooledActor):
    """Keeps what it is told; raises what it is told to raise; waits for what it is told to wait for."""

    def __init__(self, urn: str, dispatcher: Dispatcher) -> None:
        super().__init__(urn, dispatcher)
        self.got: list[Any] = []
        self.turns: list[int] = []
        self.crashes: list[tuple[BaseException, Any]] = []
        self.inside = 0
        self.overlaps = 0
        self.stops = 0

    def on_receive(self, message: Any) -> Any:
        self.inside += 1
        self.overlaps += self.inside > 1
        if isinstance(message, BaseException):
            raise message
        if isinstance(message, threading.Event):
            assert message.wait(10)
        self.got.append(message)
        self.inside -= 1
        return len(self.got)

    def on_turn_end(self) -> None:
        self.turns.append(len(self.got))

    def on_crash(self, error: BaseException, current: Any) -> None:
        self.crashes.append((error, current))

    def on_stop(self) -> None:
        self.stops += 1

    def tell(self, message: Any) -> bool:
        return self.actor_inbox.put(Envelope(message))


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    one = Dispatcher(2)
    one.start()
    yield one
    one.stop()


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads give way to each other a thousand times as often as they do by themselves."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def test_messages_are_handled_in_the_order_told_by_one_thread_at_a_time(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    for n in range(5000):
        assert actor.tell(n)
    eventually(lambda: len(actor.got) == 5000)
    assert actor.got == list(range(5000))
    assert actor.overlaps == 0


def test_a_busy_actor_lets_others_have_their_turn() -> None:
    dispatcher = Dispatcher(1)
    busy, other = Counter("busy", dispatcher), Counter("other", dispatcher)
    for n in range(TURN * 10):
        busy.tell(n)
    other.tell("hello")
    seen: list[int] = []
    other.on_turn_end = lambda: seen.append(len(busy.got))  # type: ignore[method-assign]
    dispatcher.start()
    eventually(lambda: len(busy.got) == TURN * 10)
    assert seen == [TURN]
    dispatcher.stop()


def test_mail_in_the_box_keeps_an_actor_from_being_retired(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    gate = threading.Event()
    actor.tell(gate)
    eventually(lambda: actor.inside == 1)
    assert not actor.actor_inbox.retire_if(lambda: True), "a turn is running"
    actor.tell("more")
    gate.set()
    eventually(lambda: len(actor.got) == 2 and not actor.actor_inbox.scheduled)
    assert not actor.actor_inbox.retire_if(lambda: False), "it is not at rest"
    assert actor.actor_inbox.retire_if(lambda: True)


def test_a_retired_box_takes_nothing_and_says_so(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    assert actor.actor_inbox.retire_if(lambda: True)
    assert not actor.tell("lost?")
    assert not actor.actor_inbox.put_all([Envelope("lost?")])
    assert actor.got == []


def test_nothing_is_put_between_the_look_at_a_box_and_its_retirement(dispatcher: Dispatcher) -> None:
    """H19: what was taken there would lie in a box that nobody reads any more."""
    actor = Counter("a", dispatcher)
    taken: list[bool] = []
    other = threading.Thread(target=lambda: taken.append(actor.tell("mail")))

    def at_rest() -> bool:
        other.start()
        other.join(0.2)  # as long as it needs where nothing holds it up
        return True

    assert actor.actor_inbox.retire_if(at_rest)
    other.join()
    assert taken == [False]


def test_every_message_is_taken_or_refused_while_an_actor_is_retired_again_and_again(
    dispatcher: Dispatcher,
) -> None:
    """Goes on until it was refused often enough: on a busy machine the other threads may run late."""
    handled: list[int] = []

    def successor() -> Counter:
        actor = Counter("a", dispatcher)
        actor.got = handled
        return actor

    actor, told, refused = successor(), 0, 0
    until = time.monotonic() + 30
    with switching_often():
        while (told < 20_000 or refused < 100) and time.monotonic() < until:
            if not actor.tell(told):
                refused += 1
                actor = successor()
                assert actor.tell(told)
            told += 1
            actor.actor_inbox.retire_if(lambda: True)
        eventually(lambda: len(handled) == told)
    assert handled == list(range(told)), "an actor was at work when its successor began"
    assert refused >= 100


def test_several_messages_are_put_with_nobodys_between_them() -> None:
    dispatcher = Dispatcher(2)
    actor = Counter("a", dispatcher)
    actor.actor_inbox.put_all([Envelope(n) for n in range(3)])
    assert dispatcher.waiting() == 1, "it stands in the run queue once"
    actor.actor_inbox.put_all([])
    dispatcher.start()
    eventually(lambda: actor.got == [0, 1, 2])
    assert actor.turns == [3]
    dispatcher.stop()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_a_handler_raises_ends_its_actor_alone(dispatcher: Dispatcher, error: BaseException) -> None:
    bystander = pykka.ThreadingActor.start()
    actor, other = Counter("a", dispatcher), Counter("b", dispatcher)
    actor.tell("before")
    actor.tell(error)
    actor.tell("after")
    eventually(lambda: bool(actor.crashes))
    assert actor.crashes == [(error, error)]
    assert actor.got == ["before"]
    assert [e.message for e in actor.actor_inbox.retire()] == ["after"]
    other.tell("hello")
    eventually(lambda: other.got == ["hello"])
    assert dispatcher.alive()
    assert bystander.is_alive(), "ActorRegistry.stop_all() was run"
    bystander.stop()


def test_an_asked_message_that_raises_goes_to_the_asker(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    assert actor.actor_ref.ask("hello", timeout=5) == 1
    with pytest.raises(ValueError, match="x"):
        actor.actor_ref.ask(ValueError("x"), timeout=5)


def test_a_stopped_actor_takes_no_more_mail(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    actor.actor_ref.stop(timeout=5)
    assert actor.stops == 1
    assert not actor.tell("late")
    assert actor.actor_stopped.is_set()


def test_an_actor_that_holds_a_thread_is_seen_with_its_name_and_for_how_long(dispatcher: Dispatcher) -> None:
    actor = Counter("the-busy-one", dispatcher)
    gate = threading.Event()
    actor.tell(gate)
    eventually(lambda: bool(dispatcher.busy()))
    [(busy, since)] = dispatcher.busy()
    assert busy is actor
    assert since <= time.monotonic()
    assert dispatcher.busy() == [(busy, since)]
    gate.set()
    eventually(lambda: dispatcher.busy() == [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_handler_that_raises_ends_its_thread_for_the_guardian_to_see(dispatcher: Dispatcher) -> None:
    actor = Counter("a", dispatcher)
    actor.on_crash = lambda *_: 1 / 0  # type: ignore[method-assign,assignment]
    actor.tell(ValueError("x"))
    eventually(lambda: not dispatcher.alive())
