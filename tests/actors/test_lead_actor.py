"""A lead's actor: what it records, what it calls, and what it finds when it wakes."""

from __future__ import annotations

import sys

import msgspec
import pytest

from actors.directory import LeadLimits
from actors.pool import TURN
from actors.protocol import Wake
from domain import events as ev
from domain.commands import (
    EndWait,
    InterruptAction,
    RecordOutcome,
)
from domain.events import Event, Idempotency
from domain.outcomes import Done
from tests.support.actors_outside import HeldTarget, Poison
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()
#: A lead sleeps at the first sweep.
DROWSY = LeadLimits(idle_sweeps=0, restart_delays=(1.0, 5.0))


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
    write = system.recorder.insert_rows
    free = HeldTarget()  # its gate alone is used
    free.hold()

    def slow(*args: object) -> object:
        assert free._open.wait(10)
        return write(*args)  # type: ignore[arg-type]

    system.recorder.insert_rows = slow  # type: ignore[method-assign,assignment]
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


def test_an_outcome_that_lies_far_down_in_the_box_is_read_before_its_call_is_given_up(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target}, limits=DROWSY)
    eventually(lambda: len(target.requests) == 1)
    put_to_sleep(system)
    key = target.requests[0].key
    system.calls._attempts.pop(key)  # told, and no longer in flight
    with system.directory._lock:
        system.directory._tell_lead(LEAD, [*[Wake()] * TURN, RecordOutcome(key, 1, Done())])
    eventually(lambda: system.kinds()[-1] == "MessageCompleted")
    assert "ActionInterrupted" not in system.kinds()


def test_a_process_that_was_taken_over_leaves_the_call_of_the_other_alone(boot: Boot) -> None:
    """The second process's call is out when the first one, which went on, hears of its own and reads again."""
    log, ours, theirs = Log(), HeldTarget("keyed"), HeldTarget("keyed")
    ours.hold()
    theirs.hold()
    log.message("m1")
    first = boot(log, {"notify_sales": ours})
    eventually(lambda: len(ours.requests) == 1)
    second = boot(log, {"notify_sales": theirs})
    second.directory.wake([LEAD])
    eventually(lambda: len(theirs.requests) == 1)
    ours.release()
    first.settle()
    assert first.directory._leads[LEAD].version() == len(second.history(LEAD))
    assert len(ours.requests) == 1
    theirs.release()
    second.settle()
    assert second.kinds()[-1] == "MessageCompleted"
    assert len(theirs.requests) == 1


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
