"""A lead's actor: what it records, what it calls, and what it finds when it wakes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from actors.directory import LeadLimits
from actors.lead import Wake
from domain import events as ev
from domain.commands import (
    EndWait,
    InterruptAction,
    RecordOutcome,
)
from domain.events import Event, Idempotency
from domain.outcomes import Done, NotCalled
from domain.ports import ActionCall
from tests.support.actors_outside import HeldTarget, Poison, Timers
from tests.support.actors_system import ActorSystem, Boot, Log, booting, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()
#: A lead sleeps at the first sweep.
DROWSY = LeadLimits(idle_sweeps=0, restart_delays=(1.0, 5.0))


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    with booting(tmp_path) as start:
        yield start


def all_of(system: ActorSystem, kind: type[Event]) -> list[Event]:
    return [event for event in system.events() if isinstance(event, kind)]


def put_to_sleep(system: ActorSystem) -> None:
    eventually(lambda: system.directory.sweep() and not system.directory._leads)


def test_a_message_without_targets_is_one_append(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log)
    system.settle()
    assert system.kinds() == [
        "MessageReceived",
        "IntentDetected",
        "ActionsPlanned",
        "ActionExecuted",
        "MessageCompleted",
    ]
    assert system.journal_actor.commits == 1
    assert system.position_is_complete()


def test_ten_thousand_messages_to_one_lead_cost_few_commits(boot: Boot) -> None:
    log = Log()
    for n in range(10_000):
        log.message(f"m{n}")
    system = boot(log)
    system.settle(within=60)
    completed = all_of(system, ev.MessageCompleted)
    assert [e.message_id for e in completed if isinstance(e, ev.MessageCompleted)] == [
        f"m{n}" for n in range(10_000)
    ]
    assert system.journal_actor.commits <= 500
    assert system.position_is_complete()


def test_messages_that_come_while_an_append_is_in_flight_are_decided_together(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    write = system.recorder.insert_events
    free = HeldTarget()  # its gate alone is used
    free.hold()

    def slow(*args: object) -> object:
        assert free._open.wait(10)
        return write(*args)  # type: ignore[arg-type]

    system.recorder.insert_events = slow  # type: ignore[method-assign,assignment]
    for n in range(1000):
        log.message(f"m{n}")
    system.read()
    free.release()
    system.settle()
    assert len(all_of(system, ev.MessageCompleted)) == 1000
    assert system.journal_actor.commits <= 3


def test_a_call_goes_out_only_after_its_start_is_durable(boot: Boot) -> None:
    log, target = Log(), HeldTarget()
    seen: list[list[str]] = []
    system = boot(log, {"notify_sales": target})
    call = target.call

    def look(request: object) -> object:
        seen.append(system.kinds())
        return call(request)  # type: ignore[arg-type]

    target.call = look  # type: ignore[method-assign,assignment]
    log.message("m1")
    system.read()
    system.settle()
    assert seen[0][-1] == "ActionStarted"


@pytest.mark.parametrize("idempotency", ["none", "keyed"])
def test_a_call_cut_by_a_crash_is_made_again_under_its_key(boot: Boot, idempotency: Idempotency) -> None:
    log, target = Log(), HeldTarget(idempotency)
    target.hold()
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    first.crash()
    target.release()
    second = boot(log, {"notify_sales": target})
    second.directory.wake([LEAD])
    second.settle()
    assert target.keys() == [target.requests[0].key] * 2
    assert [request.attempt for request in target.requests] == [1, 2]
    assert "ActionInterrupted" in second.kinds()
    assert second.kinds()[-1] == "MessageCompleted"


def test_a_call_cut_by_a_crash_that_may_be_made_once_only_is_left_to_a_person(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    first.crash()
    target.release()
    second = boot(log, {"notify_sales": target})
    second.directory.wake([LEAD])
    second.settle()
    assert len(target.requests) == 1
    letter = second.events()[-1]
    assert isinstance(letter, ev.MessageDeadLettered)
    assert letter.category == "outcome_unknown"


def test_a_lead_that_slept_while_its_call_was_out_does_not_make_it_again(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target}, limits=DROWSY)
    eventually(lambda: len(target.requests) == 1)
    put_to_sleep(system)
    log.message("m2")
    system.read()  # wakes it
    system.directory.wake([LEAD])
    system.settle()
    assert len(target.requests) == 1
    target.release()
    system.settle()
    assert "ActionInterrupted" not in system.kinds()
    assert len(all_of(system, ev.MessageCompleted)) == 2
    assert len(target.requests) == 2


def test_an_outcome_wakes_the_lead_that_sleeps(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target}, limits=DROWSY)
    eventually(lambda: len(target.requests) == 1)
    put_to_sleep(system)
    target.release()
    eventually(lambda: system.kinds()[-1] == "MessageCompleted")
    assert "ActionInterrupted" not in system.kinds()


def test_a_lead_replaced_while_its_call_is_out_gets_the_outcome_and_makes_no_second_call(boot: Boot) -> None:
    log, target, poison = Log(), HeldTarget("once"), Poison("m2")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target}, modules=(poison.module(),))
    eventually(lambda: len(target.requests) == 1)
    # The lead's own code raises at m2 as soon as m1 is completed: with the outcome of m1 in its hands.
    log.message("m2", intent="POISON")
    system.read()
    system.settle()
    target.release()
    eventually(lambda: poison.tries == 1)
    eventually(lambda: ("restart:" + LEAD, "") in system.timers.pending)
    assert len(target.requests) == 1
    poison.mend()
    system.restart_lead()
    assert "ActionInterrupted" not in system.kinds()
    assert len(all_of(system, ev.MessageCompleted)) == 2
    assert len(set(target.keys())) == len(target.keys()) == 2


def test_an_outcome_that_comes_while_the_lead_is_being_replaced_is_kept_for_it(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    system.settle()
    system.directory.crashed(system.directory._leads[LEAD], RuntimeError("struck"), None)
    target.release()
    eventually(lambda: system.calls.count() == 0)
    for n in range(100):
        log.message(f"more-{n}")
    system.read()
    system.restart_lead()
    assert "ActionInterrupted" not in system.kinds()
    assert len(all_of(system, ev.MessageCompleted)) == 101
    assert len(set(target.keys())) == len(target.keys()) == 101


def test_an_outcome_that_nobody_awaits_leaves_no_trace(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log)
    system.settle()
    before = system.history(LEAD)
    system.directory.tell(LEAD, RecordOutcome("acme-foods/lead-1/m1/0.notify_sales", 1, Done()))
    system.directory.tell(LEAD, EndWait("acme-foods/lead-1/m1/0.notify_sales", 1))
    system.directory.tell(LEAD, InterruptAction("acme-foods/lead-1/m1/0.notify_sales", 1))
    system.settle()
    assert system.history(LEAD) == before


def test_an_outcome_of_another_attempt_does_not_set_off_the_call_that_is_found(boot: Boot) -> None:
    """The second process's call is out; the first one's lead hears of an earlier attempt and reloads."""
    log, target = Log(), HeldTarget("keyed")
    target.hold()
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    second = boot(log, {"notify_sales": target})  # took over, while the first one was stopped
    second.directory.wake([LEAD])
    eventually(lambda: len(target.requests) == 2)
    key = target.requests[0].key
    first.directory.tell(LEAD, RecordOutcome(key, 1, Done()))  # its own call's
    eventually(lambda: first.directory._leads[LEAD].version() == len(second.history(LEAD)))
    first.settle()
    assert [request.attempt for request in target.requests] == [1, 2]
    target.release()
    second.settle()
    assert second.kinds()[-1] == "MessageCompleted"
    assert [request.attempt for request in target.requests] == [1, 2]


def test_a_wait_that_its_breaker_ends_at_once_still_leads_to_the_call(boot: Boot) -> None:
    """Held back and let go again before the lead has looked: both are decided in one batch."""
    log = Log()
    system = boot(log, {"notify_sales": HeldTarget("keyed")})
    begun: list[ActionCall] = []
    system.calls.begin = begun.append  # type: ignore[method-assign,assignment]
    log.message("m1")
    system.read()
    eventually(lambda: len(begun) == 1)
    system.settle()
    key = begun[0].key
    lead = system.directory._leads[LEAD]
    lead.actor_inbox.scheduled = True  # both are in the box before its turn begins
    system.directory.tell(LEAD, RecordOutcome(key, 1, NotCalled(1_000_000)))
    system.directory.tell(LEAD, EndWait(key, 0))
    system.dispatcher.schedule(lead)
    eventually(lambda: len(begun) == 2)
    assert begun[1] == begun[0]


def test_messages_take_effect_in_order_while_one_waits_for_its_retry(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail", "fail", "done"))
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    system.settle()
    log.message("m2")
    system.read()
    system.settle()
    assert [request.attempt for request in target.requests] == [1]
    assert system.position_is_complete(), "receiving is an event: nothing waits in memory alone"
    system.fire(LEAD)
    system.settle()
    system.fire(LEAD)
    system.settle()
    completed = [e.message_id for e in system.events() if isinstance(e, ev.MessageCompleted)]
    assert completed == ["m1", "m2"]


def test_a_wait_goes_on_after_a_restart_from_where_it_stood(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("throttle", "done"))
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    first.settle()
    planned = first.timers.delay(LEAD)
    assert planned >= 2.0
    first.crash()
    second = boot(log, {"notify_sales": target}, timers=Timers())
    second.clock.pass_time(1.5)  # type: ignore[attr-defined]
    second.directory.wake([LEAD])
    second.settle()
    assert second.timers.delay(LEAD) == pytest.approx(planned - 1.5, abs=1e-5)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_jumps_makes_no_wait_longer_than_planned(boot: Boot, hours: int) -> None:
    log, target = Log(), HeldTarget("keyed", ("throttle", "done"))
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    first.settle()
    planned = first.timers.delay(LEAD)
    first.crash()
    second = boot(log, {"notify_sales": target})
    second.clock.set_wall(timedelta(hours=hours))  # type: ignore[attr-defined]
    second.directory.wake([LEAD])
    second.settle()
    assert second.timers.delay(LEAD) == pytest.approx(planned if hours < 0 else 0.0, abs=1e-5)
    second.fire(LEAD)
    second.settle()
    assert second.kinds()[-1] == "MessageCompleted"


def test_a_compensation_goes_out_under_its_own_key_through_the_same_breaker(boot: Boot) -> None:
    log = Log()
    orders, sales = HeldTarget("keyed"), HeldTarget("keyed", ("fail_for_good",))
    log.order("m1")
    system = boot(log, {"create_order": orders, "notify_sales": sales})
    system.settle()
    done, undone = orders.requests
    assert undone.key == f"{done.key}/undo"
    assert (done.kind, undone.kind) == ("order.create", "order.cancel")
    assert undone.attempt == 1
    assert orders.effects() == sorted([done.key, undone.key]), "a keyed target took the undo for its own call"
    assert system.kinds()[-2:] == ["ActionCompensated", "MessageDeadLettered"]


def test_a_compensation_waits_for_the_breaker_of_its_action(boot: Boot) -> None:
    log = Log()
    orders, sales = HeldTarget("keyed"), HeldTarget("keyed", ("fail_for_good",))
    sales.hold()
    log.order("m1")
    system = boot(log, {"create_order": orders, "notify_sales": sales})
    eventually(lambda: len(sales.requests) == 1)
    breaker = system.breakers["create_order-target"]
    opened = ev.BreakerOpened("create_order-target", 5, 5, system.clock.now(), 10_000_000, "down")
    breaker._breaker = type(breaker._breaker)(
        breaker.target.name, "open", open_for_us=opened.open_for_us, retry_at_us=2**60
    )
    sales.release()
    system.settle()
    assert len(orders.requests) == 1
    deferred = system.events()[-1]
    assert isinstance(deferred, ev.ActionDeferred)
    assert (deferred.undo, deferred.reason) == (True, "breaker")


def test_a_handler_that_exits_ends_its_message_and_nothing_else(boot: Boot) -> None:
    log = Log()
    poison = Poison("m1")
    module = poison.module()
    module.HANDLER = msgspec.structs.replace(module.HANDLER, plan=lambda *_: sys.exit(3))  # type: ignore[attr-defined]
    log.message("m1", intent="POISON")
    log.message("m2")
    log.message("m3", "lead-2")
    system = boot(log, modules=(module,))
    system.settle()
    assert [k for k in system.kinds() if k.startswith("Message")] == [
        "MessageReceived",
        "MessageDeadLettered",
        "MessageReceived",
        "MessageCompleted",
    ]
    assert system.kinds("lead-2")[-1] == "MessageCompleted"
    assert system.dispatcher.alive()


def test_the_same_entry_of_the_log_is_skipped_without_an_event(boot: Boot) -> None:
    log = Log()
    for n in range(5):
        log.message(f"m{n}")
    first = boot(log)
    first.settle()
    before = first.history(LEAD)
    first.crash()
    second = boot(log)
    second.settle()
    assert second.history(LEAD) == before
    assert second.position_is_complete()
    second.checkpoint()
    eventually(second.journal_actor.actor_inbox.empty)
    second.crash()
    assert boot(log, read=False).positions.all() == second.positions.all()


def test_an_id_that_comes_again_is_a_duplicate(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    log.message("m1")
    system = boot(log)
    system.settle()
    assert system.kinds().count("MessageReceived") == 1
    assert system.kinds().count("DuplicateDetected") == 1


def test_a_wake_of_a_lead_at_rest_changes_nothing(boot: Boot) -> None:
    system = boot(Log())
    system.directory.tell(LEAD, Wake())
    system.settle()
    assert system.history(LEAD) == []
