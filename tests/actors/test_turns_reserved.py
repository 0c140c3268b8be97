"""A call that needs a turn has one before its start is recorded; and nobody keeps a turn that is not used."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Literal

import msgspec
import pytest

from actors.breaker import TimeIsUp
from domain import codec
from domain import events as ev
from domain.breaker import Breaker
from domain.commands import EndWait
from domain.events import Idempotency
from tests.support.actors_outside import T0, HeldTarget, ManualClock
from tests.support.actors_system import BUSINESS, ActorSystem, Boot, Log, rejects_of, stream_of
from tests.support.eventually import eventually

SALES = "notify_sales-target"
BREAKER = f"breaker:{SALES}"


def send(log: Log, leads: range) -> None:
    for n in leads:
        log.message("m", f"lead-{n}")


def starts(system: ActorSystem, leads: range) -> list[int]:
    return [system.kinds(f"lead-{n}").count("ActionStarted") for n in leads]


def ends(system: ActorSystem, leads: range) -> list[str]:
    return [(system.kinds(f"lead-{n}") or ["nothing yet"])[-1] for n in leads]


def reserved(system: ActorSystem) -> dict[str, float]:
    return system.breakers[SALES]._turns._reserved


@contextmanager
def no_commits(system: ActorSystem) -> Iterator[None]:
    """The store is busy: nothing that is decided meanwhile becomes durable."""
    with closing(sqlite3.connect(system.folder / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def in_stream(system: ActorSystem, statement: str) -> None:
    with closing(sqlite3.connect(system.folder / "events.db")) as connection, connection:
        connection.execute(statement)


def is_now(system: ActorSystem, state: Literal["open", "half_open"]) -> None:
    """The breaker's state, for whatever reason."""
    system.settle()
    system.breakers[SALES]._breaker = Breaker(SALES, state, open_for_us=7_000_000, retry_at_us=2**60)


# who has no turn is not begun


def test_of_a_burst_no_more_calls_are_recorded_as_started_than_there_are_workers(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    system = boot(log, {"notify_sales": target}, workers=3)
    with no_commits(system):  # wherever a kill falls in these appends, three are begun in them
        send(log, range(20))
        system.read()
        eventually(lambda: len(reserved(system)) == 3)
    eventually(lambda: len(target.requests) == 3)
    eventually(lambda: sorted(ends(system, range(20))) == ["ActionDeferred"] * 17 + ["ActionStarted"] * 3)
    assert sum(starts(system, range(20))) == 3
    assert sum(system.kinds(f"lead-{n}").count("ActionDeferred") for n in range(20)) == 17
    target.release()
    eventually(lambda: ends(system, range(20)) == ["MessageCompleted"] * 20)
    assert starts(system, range(20)) == [1] * 20
    done = [e for n in range(20) for e in system.events(f"lead-{n}") if isinstance(e, ev.ActionExecuted)]
    assert [e.attempts for e in done] == [1] * 20


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
def test_a_call_that_may_be_repeated_asks_for_no_turn(boot: Boot, idempotency: Idempotency) -> None:
    log, target = Log(), HeldTarget(idempotency)
    target.hold()
    send(log, range(9))
    system = boot(log, {"notify_sales": target}, workers=2)
    eventually(lambda: starts(system, range(9)) == [1] * 9)
    target.release()
    system.settle()
    assert ends(system, range(9)) == ["MessageCompleted"] * 9


def test_behind_an_open_breaker_a_call_waits_and_is_not_begun(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    system = boot(log, {"notify_sales": target})
    is_now(system, "open")
    send(log, range(5))
    system.read()
    system.settle()
    for n in range(5):
        [deferred] = [e for e in system.events(f"lead-{n}") if isinstance(e, ev.ActionDeferred)]
        assert (deferred.reason, deferred.returned_attempt) == ("breaker", False)
        assert deferred.deadline is not None
        assert system.timers.delay(stream_of(f"lead-{n}")) == pytest.approx(7.0)
    assert starts(system, range(5)) == [0] * 5


def test_no_more_probes_than_the_policy_says_have_a_turn_at_once(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    system = boot(log, {"notify_sales": target}, workers=4)
    is_now(system, "half_open")
    send(log, range(6))
    system.read()
    eventually(lambda: len(target.requests) == 2)
    eventually(lambda: sorted(ends(system, range(6))) == ["ActionDeferred"] * 4 + ["ActionStarted"] * 2)
    target.release()
    system.settle()
    assert ends(system, range(6)) == ["MessageCompleted"] * 6


def test_a_call_whose_target_the_settings_have_lost_is_not_begun(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(2))
    first = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: sorted(ends(first, range(2))) == ["ActionDeferred", "ActionStarted"])
    waiting = ends(first, range(2)).index("ActionDeferred")
    first.crash()
    target.release()
    without = boot(log, {})
    without.directory.wake([stream_of(f"lead-{waiting}")])
    without.settle()
    deferred = without.events(f"lead-{waiting}")[-1]
    assert isinstance(deferred, ev.ActionDeferred)
    assert (deferred.reason, deferred.returned_attempt) == ("target_configuration", False)
    assert starts(without, range(2))[waiting] == 0


def test_who_still_has_no_turn_after_a_start_waits_on_at_no_append(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(6))
    first = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: sorted(ends(first, range(6))) == ["ActionDeferred"] * 5 + ["ActionStarted"])
    waiting = [n for n in range(6) if ends(first, range(6))[n] == "ActionDeferred"]
    first.crash()
    target.release()
    again = HeldTarget("once")
    again.hold()
    second = boot(log, {"notify_sales": again}, workers=1)
    second.directory.wake(stream_of(f"lead-{n}") for n in waiting)
    eventually(lambda: len(again.requests) == 1)
    second.settle()
    waits = [len([k for k in second.kinds(f"lead-{n}") if k == "ActionDeferred"]) for n in waiting]
    assert waits == [1] * 5
    again.release()
    second.settle()
    assert {second.kinds(f"lead-{n}")[-1] for n in waiting} == {"MessageCompleted"}


def test_a_wait_for_a_turn_that_its_own_timer_ends_is_armed_again(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(2))
    system = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: sorted(ends(system, range(2))) == ["ActionDeferred", "ActionStarted"])
    lead = stream_of(f"lead-{ends(system, range(2)).index('ActionDeferred')}")
    clock = system.clock
    assert isinstance(clock, ManualClock)
    for _ in range(2):
        clock.pass_time(24 * 3600.0)
        system.fire(lead)
        system.settle()
        assert system.timers.delay(lead) == pytest.approx(24 * 3600.0)
    target.release()
    system.settle()
    assert ends(system, range(2)) == ["MessageCompleted"] * 2


# who does not use a turn gives it back


def test_while_the_store_is_busy_a_turn_is_kept_and_nobody_else_has_it(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    system = boot(log, {"notify_sales": target}, workers=1)
    with no_commits(system):
        send(log, range(5))
        system.read()
        eventually(lambda: len(reserved(system)) == 1)
        kept = dict(reserved(system))
        clock = system.clock
        assert isinstance(clock, ManualClock)
        clock.pass_time(60.0)
        system.directory.tell(BREAKER, system.timers.take(BREAKER, "watch"))
        eventually(lambda: (BREAKER, "watch") in system.timers.pending)
        assert reserved(system) == kept
        assert target.requests == []
    system.settle()
    assert ends(system, range(5)) == ["MessageCompleted"] * 5
    assert len(set(target.keys())) == len(target.keys()) == 5


def test_a_call_that_finds_the_breaker_open_when_its_start_is_durable_keeps_no_turn(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    system = boot(log, {"notify_sales": target}, workers=1)
    with no_commits(system):
        send(log, range(1))
        system.read()
        eventually(lambda: len(reserved(system)) == 1)
        system.breakers[SALES]._breaker = Breaker(SALES, "open", open_for_us=7_000_000, retry_at_us=2**60)
    system.settle()
    assert target.requests == []
    assert reserved(system) == {}
    system.directory.tell(BREAKER, TimeIsUp())
    system.settle()
    assert ends(system, range(1)) == ["MessageCompleted"]


def test_a_lead_whose_start_the_store_refuses_gives_its_turn_back(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    system = boot(log, {"notify_sales": target}, workers=1)
    in_stream(
        system,
        "CREATE TRIGGER refuse BEFORE INSERT ON stored_events"
        f" WHEN NEW.originator_id = '{stream_of('lead-0')}' BEGIN SELECT RAISE(ABORT, 'no room'); END",
    )
    send(log, range(4))
    system.read()
    clock = system.clock
    assert isinstance(clock, ManualClock)

    def others_are_done() -> bool:
        clock.pass_time(1.0)  # lead-0 may have been told to come, and cannot
        if (BREAKER, "watch") in system.timers.pending:
            system.fire(BREAKER, "watch")
        return ends(system, range(4))[1:] == ["MessageCompleted"] * 3

    eventually(others_are_done)
    for _ in range(2):
        system.restart_lead("lead-0")
    eventually(lambda: system.directory.stopped() == [stream_of("lead-0")])
    system.settle()
    assert reserved(system) == {}
    assert [type(r.event).__name__ for r in system.history(rejects_of("lead-0"))][:1] == ["LeadStopped"]


def test_a_lead_that_finds_its_message_done_by_another_writer_gives_its_turn_back(boot: Boot) -> None:
    """What was decided is decided anew, and asks for another call's turn: the only one there is."""
    log, target = Log(), HeldTarget("once")
    log.message("ok", intent="UNKNOWN")
    system = boot(log, {"notify_sales": target}, workers=1)
    system.settle()
    version = len(system.history(stream_of()))
    received = ev.MessageReceived("m1", "k", "lead-1", BUSINESS, "acme", "UNKNOWN", 0.9, "{}")
    record_as_another(system, version + 1, received)
    record_as_another(system, version + 2, ev.MessageCompleted("m1", 1, (), 0, False))
    lead = system.directory._leads[stream_of()]
    lead.actor_inbox.scheduled = True  # both are in the box before its turn begins
    log.message("m1")
    log.message("m2")
    system.read()
    system.dispatcher.schedule(lead)
    system.settle()
    assert [e.message_id for e in system.events() if isinstance(e, ev.ActionStarted)] == ["m2"]
    assert system.kinds()[-1] == "MessageCompleted"
    assert reserved(system) == {}


def record_as_another(system: ActorSystem, version: int, event: ev.Event) -> None:
    """Another process writes the lead's next event."""
    theirs = ev.Recorded(stream_of(), version, event, f"theirs-{version}", T0)
    name, state = codec.encode(theirs)
    with closing(sqlite3.connect(system.folder / "events.db")) as connection, connection:
        connection.execute("INSERT INTO stored_events VALUES (?,?,?,?)", (stream_of(), version, name, state))


def test_the_turn_of_a_lead_that_is_stopped_meanwhile_is_lost_after_a_second(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(3))
    system = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: sorted(ends(system, range(3))) == ["ActionDeferred"] * 2 + ["ActionStarted"])
    first = next(iter(system.breakers[SALES]._turns.leads.values()))
    breaker, tell = system.breakers[SALES], system.directory.tell

    def not_to_the_first(address: str, message: object) -> None:
        if not (isinstance(message, EndWait) and address == first.stream):
            tell(address, message)

    breaker.parts = msgspec.structs.replace(breaker.parts, tell=not_to_the_first)
    target.release()
    system.settle()
    assert list(reserved(system)) == [first.key]
    clock = system.clock
    assert isinstance(clock, ManualClock)
    clock.pass_time(1.0)
    system.fire(BREAKER, "watch")
    system.settle()
    others = [n for n in range(3) if stream_of(f"lead-{n}") != first.stream]
    assert {system.kinds(f"lead-{n}")[-1] for n in others} == {"MessageCompleted"}
