"""Who waits for a target and for how long: its configuration, a pause that it asked for, its rate, its workers."""

from __future__ import annotations

import pytest

from domain import events as ev
from domain.breaker import BreakerPolicy
from domain.outcomes import Failed, Outcome
from domain.ports import TargetRequest
from domain.retry import PARKED
from tests.support.actors_outside import HeldTarget, ManualClock
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually

SALES = "notify_sales-target"
BREAKER = f"breaker:{SALES}"


def transitions(system: ActorSystem) -> list[str]:
    return [type(recorded.event).__name__ for recorded in system.history(BREAKER)]


def ends(system: ActorSystem, leads: range) -> list[str]:
    return [system.kinds(f"lead-{n}")[-1] for n in leads]


def send(log: Log, leads: range) -> None:
    for n in leads:
        log.message("m", f"lead-{n}")


def deferrals(system: ActorSystem, lead: str) -> list[ev.ActionDeferred]:
    return [event for event in system.events(lead) if isinstance(event, ev.ActionDeferred)]


def starts(system: ActorSystem, leads: range) -> list[int]:
    return [system.kinds(f"lead-{n}").count("ActionStarted") for n in leads]


def pass_time(system: ActorSystem, seconds: float) -> None:
    clock = system.clock
    assert isinstance(clock, ManualClock)
    clock.pass_time(seconds)


def room_again(system: ActorSystem, seconds: float) -> None:
    """So much time passes, and the timer runs out that the breaker has armed for it."""
    pass_time(system, seconds)
    system.fire(BREAKER, "room")
    system.settle()


# a target's configuration


def refused(boot: Boot, log: Log, script: tuple[str, ...], leads: range = range(6)) -> ActorSystem:
    """The target has refused the first call because of its configuration; the other leads came after it."""
    send(log, leads[:1])
    system = boot(log, {"notify_sales": HeldTarget("once", script)})
    system.settle()
    send(log, leads[1:])
    system.read()
    system.settle()
    return system


def test_one_refused_login_opens_the_breaker_and_everybody_waits_without_a_deadline(boot: Boot) -> None:
    log = Log()
    system = refused(boot, log, ("misconfigured",))
    [opened] = [recorded.event for recorded in system.history(BREAKER)]
    assert isinstance(opened, ev.BreakerOpened)
    assert (opened.configuration, opened.switched_off, opened.error) == (
        True,
        False,
        "the target answered 401",
    )
    for n in range(6):
        [deferred] = deferrals(system, f"lead-{n}")
        assert (deferred.reason, deferred.deadline) == ("target_configuration", None)
        assert deferred.returned_attempt is (n == 0), "only the first was begun"
        assert system.timers.delay(stream_of(f"lead-{n}")) == PARKED.total_seconds()


def test_it_is_probed_by_its_timer_and_once_it_is_mended_everybody_gets_through(boot: Boot) -> None:
    log = Log()
    system = refused(boot, log, ("misconfigured", "misconfigured", "done"))
    assert system.timers.delay(BREAKER, "open") == pytest.approx(10.0)
    system.fire(BREAKER, "open")
    system.settle()
    assert transitions(system) == ["BreakerOpened", "BreakerHalfOpened", "BreakerOpened"]
    assert system.timers.delay(BREAKER, "open") == pytest.approx(20.0)
    system.fire(BREAKER, "open")
    system.settle()
    assert transitions(system)[-1] == "BreakerClosed"
    assert ends(system, range(6)) == ["MessageCompleted"] * 6
    attempts = [
        e.attempts for n in range(6) for e in system.events(f"lead-{n}") if isinstance(e, ev.ActionExecuted)
    ]
    assert attempts == [1] * 6, "no attempt is burnt"


def test_a_start_probes_at_once_and_wakes_those_that_wait(boot: Boot) -> None:
    log = Log()
    first = refused(boot, log, ("misconfigured",))
    first.checkpoint()
    first.crash()
    second = boot(log, {"notify_sales": HeldTarget("once")})
    second.settle()
    assert transitions(second)[-1] == "BreakerHalfOpened"
    second.directory.wake(stream_of(f"lead-{n}") for n in range(6))
    second.settle()
    assert transitions(second)[-1] == "BreakerClosed"
    assert ends(second, range(6)) == ["MessageCompleted"] * 6


def test_what_is_still_wrong_at_the_next_start_waits_on(boot: Boot) -> None:
    log = Log()
    first = refused(boot, log, ("misconfigured",))
    first.checkpoint()
    first.crash()
    second = boot(log, {"notify_sales": HeldTarget("once", ("misconfigured",))})
    second.directory.wake(stream_of(f"lead-{n}") for n in range(6))
    second.settle()
    assert transitions(second)[1:] == ["BreakerHalfOpened", "BreakerOpened"]
    for n in range(6):
        assert deferrals(second, f"lead-{n}")[-1].reason == "target_configuration"


def test_a_target_that_is_switched_off_is_left_alone_until_the_next_start(boot: Boot) -> None:
    log = Log()
    system = refused(boot, log, ("switched_off",))
    [opened] = [recorded.event for recorded in system.history(BREAKER)]
    assert isinstance(opened, ev.BreakerOpened)
    assert (opened.switched_off, opened.retry_at) == (True, None)
    assert (BREAKER, "open") not in system.timers.pending
    system.checkpoint()
    system.crash()
    again = boot(log, {"notify_sales": HeldTarget("once")})
    again.directory.wake(stream_of(f"lead-{n}") for n in range(6))
    again.settle()
    assert ends(again, range(6)) == ["MessageCompleted"] * 6


def test_who_waited_for_a_breaker_has_no_deadline_once_its_settings_are_found_to_be_wrong(boot: Boot) -> None:
    log = Log()
    send(log, range(5))
    target = HeldTarget("keyed", ("fail",) * 5 + ("misconfigured",))
    system = boot(log, {"notify_sales": target})
    system.settle()
    send(log, range(5, 12))
    system.read()
    system.settle()
    assert all(deferrals(system, f"lead-{n}")[-1].deadline for n in range(5, 12))
    system.fire(BREAKER, "open")
    system.settle()
    for n in range(5, 12):
        deferred = deferrals(system, f"lead-{n}")[-1]
        assert (deferred.reason, deferred.deadline) == ("target_configuration", None)


def test_calls_that_were_out_when_the_first_was_refused_are_let_in_again_with_the_others(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("misconfigured",) * 4 + ("done",))
    target.hold()
    send(log, range(4))
    system = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 4)
    target.release()
    system.settle()
    assert transitions(system) == ["BreakerOpened"]
    system.fire(BREAKER, "open")
    system.settle()
    assert ends(system, range(4)) == ["MessageCompleted"] * 4


def test_leads_that_were_told_to_come_and_need_no_turn_now_leave_it_to_others(boot: Boot) -> None:
    """Both probes' places go to leads that have moved on: they give them back to who still waits."""
    log = Log()
    system = refused(boot, log, ("misconfigured", "done"))
    breaker = system.breakers[SALES]
    turns = breaker._turns.leads
    first_two = list(turns)[:2]
    gone = {turns[key].stream for key in first_two}
    for key in first_two:  # their messages have ended otherwise: nobody awaits what they are told
        turns[key] = type(turns[key])(key, turns[key].stream, 99)
    system.fire(BREAKER, "open")
    system.settle()
    assert transitions(system)[-1] == "BreakerClosed"
    others = [n for n in range(6) if stream_of(f"lead-{n}") not in gone]
    assert {system.kinds(f"lead-{n}")[-1] for n in others} == {"MessageCompleted"}


def test_leads_that_were_told_to_come_and_are_never_heard_of_lose_their_turn(boot: Boot) -> None:
    log = Log()
    system = refused(boot, log, ("misconfigured", "done"))
    breaker = system.breakers[SALES]
    turns = breaker._turns.leads
    for key in list(turns)[:2]:
        turns[key] = type(turns[key])(
            key, "lead:acme-foods:nobody", 0
        )  # what it is told, it does not answer for
    ask = breaker.give_back
    breaker.give_back = lambda key: None  # type: ignore[method-assign]  # noqa: ARG005
    system.fire(BREAKER, "open")
    system.settle()
    assert transitions(system)[-1] == "BreakerHalfOpened"
    breaker.give_back = ask  # type: ignore[method-assign]
    system.fire(BREAKER, "watch")
    system.settle()
    assert transitions(system)[-1] == "BreakerHalfOpened", "a turn is kept for a second"
    pass_time(system, 1.0)
    system.fire(BREAKER, "watch")
    system.settle()
    assert transitions(system)[-1] == "BreakerClosed"


# a pause that the target asked for


def test_a_429_holds_back_every_call_of_its_target_at_no_append(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("throttle", "done"))
    send(log, range(1))
    system = boot(log, {"notify_sales": target})
    system.settle()
    send(log, range(1, 50))
    system.read()
    system.settle()
    assert len(target.requests) == 1
    assert system.breakers[SALES].held() == 49
    assert starts(system, range(1, 50)) == [1] * 49
    assert ends(system, range(1, 50)) == ["ActionStarted"] * 49
    room_again(system, 2.0)
    assert ends(system, range(1, 50)) == ["MessageCompleted"] * 49
    assert transitions(system) == []


def test_what_stood_in_the_workers_queue_when_the_pause_began_is_held_back_too(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("throttle", "done"))
    target.hold()
    send(log, range(10))
    system = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: system.breakers[SALES].staff.jobs.qsize() == 9)
    target.release()
    system.settle()
    assert len(target.requests) == 1
    room_again(system, 2.0)
    assert [system.kinds(f"lead-{n}")[-1] for n in range(10)].count("MessageCompleted") == 9


def test_in_a_pause_no_call_of_a_once_target_is_begun(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once", ("throttle", "done"))
    send(log, range(1))
    system = boot(log, {"notify_sales": target})
    system.settle()
    send(log, range(1, 9))
    system.read()
    system.settle()
    assert len(target.requests) == 1
    for n in range(1, 9):
        [deferred] = deferrals(system, f"lead-{n}")
        assert (deferred.reason, deferred.deadline, deferred.returned_attempt) == ("busy", None, False)
    assert starts(system, range(1, 9)) == [0] * 8
    assert system.calls.count() == 0, "a crash now makes nothing unknown"
    room_again(system, 2.0)
    assert ends(system, range(1, 9)) == ["MessageCompleted"] * 8


def test_a_pause_lasts_no_longer_than_the_policy_allows(boot: Boot) -> None:
    class Rude(HeldTarget):
        def call(self, request: TargetRequest) -> Outcome:
            self.requests.append(request)
            return Failed("429", 10**30, throttled=True)

    log = Log()
    system = boot(log, {"notify_sales": Rude()})
    send(log, range(2))
    system.read()
    system.settle()
    eventually(lambda: (BREAKER, "room") in system.timers.pending or system.breakers[SALES].held() == 0)
    log.message("m", "lead-9")
    system.read()
    system.settle()
    assert system.timers.delay(BREAKER, "room") <= 300.0


# its rate


def test_calls_of_a_keyed_target_go_out_no_closer_than_its_rate_and_wait_at_no_append(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed")
    send(log, range(10))
    system = boot(log, {"notify_sales": target}, rate=2.0)
    system.settle()
    for done in range(1, 11):
        assert len(target.requests) == done
        if done < 10:
            system.fire(BREAKER, "room")  # too early: it is armed again
            system.settle()
            assert len(target.requests) == done
            room_again(system, 0.5)
    assert ends(system, range(10)) == ["MessageCompleted"] * 10
    assert starts(system, range(10)) == [1] * 10
    assert (BREAKER, "room") not in system.timers.pending


def test_calls_of_a_once_target_are_begun_when_their_turn_has_come(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    send(log, range(10))
    system = boot(log, {"notify_sales": target}, rate=1.0)
    system.settle()
    assert len(target.requests) == 1
    for done in range(2, 11):
        assert system.calls.count() == 0, "a crash now makes nothing unknown"
        room_again(system, 1.0)
        assert len(target.requests) == done
    assert ends(system, range(10)) == ["MessageCompleted"] * 10
    assert starts(system, range(10)) == [1] * 10


def test_a_call_that_comes_later_does_not_take_the_turn_of_one_that_waits(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    send(log, range(3))
    system = boot(log, {"notify_sales": target}, rate=1.0)
    system.settle()
    pass_time(system, 1.0)
    log.message("m", "lead-9")  # the target has room, and two wait for it
    system.read()
    system.settle()
    for _ in range(2):
        room_again(system, 1.0)
    assert len(target.requests) == 4
    assert target.requests[-1].lead_id == "lead-9"


def test_an_idle_target_saves_up_no_calls(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed")
    system = boot(log, {"notify_sales": target}, rate=1.0)
    pass_time(system, 3600.0)
    send(log, range(5))
    system.read()
    system.settle()
    assert len(target.requests) == 1


def test_what_waits_for_its_turn_waits_for_the_breaker_once_that_is_open(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",))
    send(log, range(4))
    policy = BreakerPolicy(minimum_calls=1)
    system = boot(log, {"notify_sales": target}, rate=1.0, policy=policy)
    system.settle()
    assert transitions(system) == ["BreakerOpened"]
    assert system.breakers[SALES].held() == 0
    reasons = [deferrals(system, f"lead-{n}")[-1].reason for n in range(4)]
    assert sorted(reasons) == ["breaker", "breaker", "breaker", "retry"]


def test_a_turn_that_another_process_gave_is_asked_for_again_at_the_start(boot: Boot) -> None:
    log = Log()
    send(log, range(5))
    first = boot(log, {"notify_sales": HeldTarget("once")}, rate=1.0)
    first.settle()
    first.checkpoint()
    first.crash()
    target = HeldTarget("once")
    second = boot(log, {"notify_sales": target}, rate=1.0)
    second.directory.wake(stream_of(f"lead-{n}") for n in range(5))
    second.settle()
    for _ in range(3):
        room_again(second, 1.0)
    assert ends(second, range(5)) == ["MessageCompleted"] * 5
    assert len(target.keys()) == len(set(target.keys())) == 4


# isolation


@pytest.mark.parametrize("idempotency", ["keyed", "once"])
def test_a_slow_target_of_one_business_holds_up_no_other(boot: Boot, idempotency: ev.Idempotency) -> None:
    """It does not answer at all while all of the others' messages go through; its own take no more appends."""
    log, slow, quick = Log(), HeldTarget(idempotency), HeldTarget(idempotency)
    slow.hold()
    for n in range(100):
        log.message("m", f"lead-{n}", business_id="acme-deli")
    system = boot(log, {"notify_sales": quick, "notify_sales@acme-deli": slow}, workers=2)
    eventually(lambda: len(slow.requests) == 2)
    send(log, range(100))
    system.read()
    eventually(lambda: [system.kinds(f"lead-{n}")[-1:] for n in range(100)] == [["MessageCompleted"]] * 100)
    assert len(slow.requests) == 2
    held = [system.kinds(f"lead-{n}", "acme-deli") for n in range(100)]
    assert max(kinds.count("ActionStarted") for kinds in held) == 1
    assert len(system.breakers[SALES].staff.workers) <= 2
    slow.release()
    eventually(
        lambda: {system.kinds(f"lead-{n}", "acme-deli")[-1] for n in range(100)} == {"MessageCompleted"}
    )


def test_an_action_at_two_targets_is_stopped_by_the_breaker_of_the_one_that_fails(boot: Boot) -> None:
    log = Log()
    well, fails = HeldTarget("keyed"), HeldTarget("keyed", ("fail",) * 5 + ("done",))
    send(log, range(5))
    system = boot(log, {"notify_sales": (well, fails)})
    system.settle()
    assert system.history(f"breaker:{SALES}.a") == []
    assert [type(r.event).__name__ for r in system.history(f"breaker:{SALES}.b")] == ["BreakerOpened"]
    assert len(well.requests) == 5
    for n in range(5):
        assert system.kinds(f"lead-{n}").count("StepExecuted") == 1
        system.fire(stream_of(f"lead-{n}"))
    system.settle()
    system.fire(f"breaker:{SALES}.b", "open")
    system.settle()
    assert ends(system, range(5)) == ["MessageCompleted"] * 5
    assert len(well.requests) == 5
