"""A lead that waits: for a retry, for a breaker, over a restart, and with a clock that jumps."""

from __future__ import annotations

from datetime import timedelta

import pytest

from domain import events as ev
from domain.commands import EndWait, RecordOutcome
from domain.outcomes import NotCalled
from domain.ports import ActionCall
from tests.support.actors_outside import HeldTarget, Timers
from tests.support.actors_system import Boot, Log, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()


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


def test_mail_that_comes_while_a_lead_waits_makes_its_wait_no_longer(boot: Boot) -> None:
    """H16: with a clock that was set back, each message would begin the wait anew."""
    log, target = Log(), HeldTarget("keyed", ("fail", "done"))
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    system.settle()
    armed = system.timers.pending[LEAD, ""]
    system.clock.set_wall(timedelta(hours=-1))  # type: ignore[attr-defined]
    log.message("m2")
    system.read()
    system.settle()
    assert system.timers.pending[LEAD, ""] is armed
    system.fire(LEAD)
    system.settle()
    assert system.kinds().count("MessageCompleted") == 2


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
