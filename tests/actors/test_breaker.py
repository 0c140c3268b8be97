"""The breakers' supervisors: who is let through, who waits, and who answers for a call that does not come back."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from actors.breaker import BreakerActor
from actors.calls import CallRegistry
from actors.worker import CallEnded
from domain import codec
from domain import events as ev
from domain.breaker import BreakerPolicy
from domain.commands import RecordOutcome
from domain.outcomes import Done, Failed, Outcome, Unknown
from domain.ports import ActionCall, TargetRequest
from domain.retry import PARKED
from tests.support.actors_outside import T0, HeldTarget
from tests.support.actors_system import ActorSystem, Boot, Log, stream_of
from tests.support.eventually import eventually

SALES = "notify_sales-target"
BREAKER = f"breaker:{SALES}"


def transitions(system: ActorSystem) -> list[str]:
    return [type(recorded.event).__name__ for recorded in system.history(BREAKER)]


def dispositions(system: ActorSystem, leads: range) -> list[str]:
    return [(system.kinds(f"lead-{n}") or ["nothing yet"])[-1] for n in leads]


def breaker_of(system: ActorSystem) -> BreakerActor:
    return system.breakers[SALES]


def send(log: Log, leads: range) -> None:
    for n in leads:
        log.message("m", f"lead-{n}")


def ended(call: ActionCall, outcome: Outcome) -> CallEnded:
    """What a worker tells; from a worker that nobody has."""
    return CallEnded(call, outcome, -1)


def record_as_another(system: ActorSystem, stream: str, event: ev.Event) -> None:
    """Another process writes the stream's next event."""
    version = len(system.history(stream)) + 1
    name, state = codec.encode(ev.Recorded(stream, version, event, f"theirs-{version}", T0))
    with closing(sqlite3.connect(system.folder / "events.db")) as connection, connection:
        connection.execute("INSERT INTO stored_events VALUES (?,?,?,?)", (stream, version, name, state))


def received() -> ev.MessageReceived:
    return ev.MessageReceived("m", "k", "l", "b", "t", "PRICING_INQUIRY", 1.0, "{}")


def opened(boot: Boot, log: Log, target: HeldTarget) -> ActorSystem:
    """Five leads' calls failed; the breaker is open."""
    send(log, range(5))
    system = boot(log, {"notify_sales": target})
    system.settle()
    assert transitions(system) == ["BreakerOpened"]
    return system


def test_a_target_that_fails_opens_its_own_breaker_and_no_other(boot: Boot) -> None:
    log = Log()
    orders = HeldTarget()
    for n in range(5):
        log.order("m", f"lead-{n}")
    system = boot(log, {"create_order": orders, "notify_sales": HeldTarget("keyed", ("fail",))})
    system.settle()
    assert transitions(system) == ["BreakerOpened"]
    assert system.history("breaker:create_order-target") == []
    log.order("m", "lead-5")
    system.read()
    system.settle()
    assert len(orders.requests) == 6


def test_an_open_breaker_lets_no_call_through_and_burns_no_attempt(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",) * 5 + ("done",))
    system = opened(boot, log, target)
    calls = len(target.requests)
    send(log, range(5, 8))
    system.read()
    system.settle()
    assert len(target.requests) == calls
    for n in range(5, 8):
        deferred = system.events(f"lead-{n}")[-1]
        assert isinstance(deferred, ev.ActionDeferred)
        assert (deferred.reason, deferred.returned_attempt) == ("breaker", True)


def test_a_breaker_goes_through_its_three_states_and_everybody_gets_through(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",) * 5 + ("done",))
    system = opened(boot, log, target)
    send(log, range(5, 12))
    system.read()
    system.settle()
    assert system.timers.delay(BREAKER, "open") == pytest.approx(10.0)
    system.fire(BREAKER, "open")  # two probes of those that wait, and then all of them
    system.settle()
    assert transitions(system) == ["BreakerOpened", "BreakerHalfOpened", "BreakerClosed"]
    assert dispositions(system, range(5, 12)) == ["MessageCompleted"] * 7
    for n in range(5):  # these wait for their own retry
        system.fire(stream_of(f"lead-{n}"))
    system.settle()
    assert dispositions(system, range(5)) == ["MessageCompleted"] * 5


def test_a_half_open_breaker_lets_through_as_many_probes_as_its_policy_says(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",) * 5 + ("done",))
    system = opened(boot, log, target)
    send(log, range(5, 20))
    system.read()
    system.settle()
    target.hold()
    system.fire(BREAKER, "open")
    eventually(lambda: len(target.requests) == 7)
    for n in range(7, 20):  # the rest ask at their own time
        system.fire(stream_of(f"lead-{n}"))
    system.settle()
    assert len(target.requests) == 7
    target.release()
    eventually(lambda: transitions(system)[-1] == "BreakerClosed")


def test_a_probe_that_fails_opens_the_breaker_for_twice_as_long(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",) * 7 + ("done",))
    system = opened(boot, log, target)
    send(log, range(5, 7))
    system.read()
    system.settle()
    system.fire(BREAKER, "open")
    system.settle()
    assert transitions(system) == ["BreakerOpened", "BreakerHalfOpened", "BreakerOpened"]
    assert system.timers.delay(BREAKER, "open") == pytest.approx(20.0)


def test_calls_that_went_out_before_the_breaker_opened_prove_nothing_about_its_probes(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",))
    target.hold()
    send(log, range(8))
    system = boot(log, {"notify_sales": target}, workers=8)
    eventually(lambda: len(target.requests) == 8)
    for n in range(5):
        request = target.requests[n]
        call = next(c for c, _ in breaker_of(system).staff.running.values() if c.key == request.key)
        system.directory.tell(BREAKER, ended(call, Failed("down")))
    eventually(lambda: transitions(system) == ["BreakerOpened"])
    system.fire(BREAKER, "open")
    eventually(lambda: transitions(system)[-1] == "BreakerHalfOpened")
    before = len(transitions(system))
    stragglers = [c for c, _ in breaker_of(system).staff.running.values() if c.key == target.requests[7].key]
    system.directory.tell(BREAKER, ended(stragglers[0], Failed("down")))
    eventually(lambda: breaker_of(system).at_rest() and breaker_of(system).actor_inbox.empty())
    assert len(transitions(system)) == before
    target.release()


def test_an_open_breaker_stays_open_over_a_restart_and_still_opens_again(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail",) * 5 + ("done",))
    first = opened(boot, log, target)
    first.crash()
    second = boot(log, {"notify_sales": target})
    second.settle()
    calls = len(target.requests)
    send(log, range(5, 7))
    second.read()
    second.settle()
    assert len(target.requests) == calls
    assert 0 < second.timers.delay(BREAKER, "open") <= 10.0
    second.fire(BREAKER, "open")
    second.settle()
    assert dispositions(second, range(5, 7)) == ["MessageCompleted"] * 2


def test_a_throttled_call_is_not_the_targets_failure(boot: Boot) -> None:
    log = Log()
    send(log, range(10))
    system = boot(log, {"notify_sales": HeldTarget("keyed", ("throttle",))})
    system.settle()
    assert transitions(system) == []


def test_no_more_calls_are_out_than_the_target_has_workers(boot: Boot) -> None:
    log, target = Log(), HeldTarget()
    target.hold()
    send(log, range(20))
    system = boot(log, {"notify_sales": target}, workers=3)
    eventually(lambda: len(target.requests) == 3)
    eventually(lambda: system.calls.count() == 20)
    assert len(breaker_of(system).staff.workers) == 3
    target.release()
    system.settle()
    assert dispositions(system, range(20)) == ["MessageCompleted"] * 20


def test_of_a_target_that_may_be_called_once_a_crash_makes_unknown_only_what_was_at_work(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(20))
    system = boot(log, {"notify_sales": target}, workers=3)
    eventually(lambda: len(target.requests) == 3)
    eventually(lambda: [system.kinds(f"lead-{n}")[-1:] for n in range(20)].count(["ActionDeferred"]) == 17)
    system.crash()
    target.release()
    again = HeldTarget("once")
    system = boot(log, {"notify_sales": again}, workers=3)
    system.settle()
    waiting = [n for n in range(20) if system.kinds(f"lead-{n}")[-1] == "ActionDeferred"]
    unknown = [n for n in range(20) if system.kinds(f"lead-{n}")[-1] == "MessageDeadLettered"]
    assert (len(unknown), len(waiting)) == (3, 17)
    for n in waiting:
        system.fire(stream_of(f"lead-{n}"))
    system.settle()
    eventually(lambda: dispositions(system, range(20)).count("MessageCompleted") == 17)
    assert len(set(again.keys())) == len(again.keys()) == 17


def test_calls_that_no_worker_is_free_for_are_let_out_as_workers_come_free(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    send(log, range(20))
    system = boot(log, {"notify_sales": target}, workers=3)
    eventually(lambda: len(target.requests) == 3)
    target.release()
    eventually(lambda: dispositions(system, range(20)) == ["MessageCompleted"] * 20)
    assert len(set(target.keys())) == len(target.keys()) == 20


def test_what_a_targets_code_raises_is_an_unknown_outcome(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log, {"notify_sales": HeldTarget("once", ("a bug",))})
    system.settle()
    letter = system.events()[-1]
    assert isinstance(letter, ev.MessageDeadLettered)
    assert letter.category == "outcome_unknown"
    assert "a bug" in letter.error


class Exiting(HeldTarget):
    """Ends its caller's thread at the first calls."""

    def __init__(self, exits: int) -> None:
        super().__init__("keyed")
        self.exits = exits
        self._count = threading.Lock()

    def call(self, request: TargetRequest) -> Outcome:
        with self._count:
            self.exits -= 1
            exits = self.exits >= 0
        if exits:
            assert self._open.wait(10)
            raise SystemExit(3)
        return super().call(request)


def test_calls_that_wait_behind_one_that_ends_its_worker_are_made_by_the_next(boot: Boot) -> None:
    log, target = Log(), Exiting(1)
    target.hold()
    send(log, range(3))
    system = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: breaker_of(system).staff.jobs.qsize() == 2)
    target.release()
    system.settle()
    assert dispositions(system, range(3)).count("MessageCompleted") == 2
    assert len(breaker_of(system).staff.workers) == 1


def test_a_call_that_does_not_come_back_is_an_unknown_outcome_and_its_worker_is_replaced(boot: Boot) -> None:
    log, target = Log(), HeldTarget("once")
    target.hold()
    log.message("m1")
    log.message("m", "lead-2")
    system = boot(log, {"notify_sales": target}, workers=1)
    eventually(lambda: len(target.requests) == 1)
    breaker = breaker_of(system)
    hung = threading.active_count()
    [(number, (call, began))] = breaker.staff.running.items()
    breaker.staff.running[number] = (call, began - 100.0)
    system.fire(BREAKER, "watch")
    eventually(lambda: len(target.requests) == 2)
    lead = next(n for n in ("lead-1", "lead-2") if stream_of(n) == call.stream)
    eventually(lambda: system.kinds(lead)[-1] == "MessageDeadLettered")
    target.release()
    system.settle()
    assert sorted(dispositions(system, range(1, 3))) == ["MessageCompleted", "MessageDeadLettered"]
    assert len(breaker.staff.workers) == 1
    eventually(lambda: threading.active_count() <= hung)  # the replaced one has gone
    system.settle()
    assert sum(calls for _, calls, _ in breaker._breaker.counts) == 2, "what came too late counts no more"


def test_calls_at_work_are_looked_at_until_the_last_has_come_back(boot: Boot) -> None:
    log, target = Log(), HeldTarget()
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    system.fire(BREAKER, "watch")
    eventually(lambda: (BREAKER, "watch") in system.timers.pending)
    target.release()
    system.settle()
    system.fire(BREAKER, "watch")
    system.settle()
    assert (BREAKER, "watch") not in system.timers.pending


@pytest.mark.parametrize(
    "answer",
    [None, "done", Done({"id": 7}), Done({"id": "\ud800"}), Failed(None), Failed("x", "soon")],  # type: ignore[arg-type,dict-item]
    ids=["nothing", "text", "a number for an id", "half a character", "no error", "no duration"],
)
def test_an_answer_that_is_none_stops_no_lead_and_leaves_no_event_that_cannot_be_read(
    boot: Boot, answer: Outcome
) -> None:
    log, target = Log(), HeldTarget("keyed")
    target.call = lambda _request: answer  # type: ignore[method-assign,assignment]
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    system.settle()
    assert system.directory.gauges()["leads_restarting"] == 0
    assert system.kinds()[-1] in {"MessageCompleted", "ActionDeferred"}
    assert len(system.everything()) == len(system.history(stream_of()))


def test_an_action_without_a_target_in_the_settings_waits_for_it(boot: Boot) -> None:
    log, target = Log(), HeldTarget()
    target.hold()
    log.message("m1")
    first = boot(log, {"notify_sales": target})
    eventually(lambda: len(target.requests) == 1)
    first.crash()
    without = boot(log, {})
    without.directory.wake([stream_of()])
    without.settle()
    deferred = without.events()[-1]
    assert isinstance(deferred, ev.ActionDeferred)
    assert (deferred.reason, deferred.deadline) == ("target_configuration", None)
    assert without.timers.delay(stream_of()) == pytest.approx(PARKED.total_seconds())


def test_a_second_writer_of_a_breaker_makes_no_call_go_out_twice(boot: Boot) -> None:
    """Another process opens the same breaker: ours finds out with calls in the very batch that clashes."""
    log, target = Log(), HeldTarget("once", ("fail",) * 5 + ("done",))
    target.hold()
    send(log, range(6))
    system = boot(log, {"notify_sales": target}, workers=8)
    eventually(lambda: len(target.requests) == 6)
    other = ev.BreakerClosed(SALES)
    record_as_another(system, BREAKER, other)
    breaker = breaker_of(system)
    breaker.actor_inbox.scheduled = True  # the end of five calls and two new ones, all in one batch
    send(log, range(6, 8))
    system.read()
    eventually(lambda: len(breaker.actor_inbox.mail) == 2)
    calls = [call for call, _ in list(breaker.staff.running.values())][:5]
    for call in calls:
        system.directory.tell(BREAKER, ended(call, Failed("down")))
    system.dispatcher.schedule(breaker)
    target.release()
    system.settle()
    for lead in ("lead-6", "lead-7"):  # if they were held back, or have failed, they ask again
        if (stream_of(lead), "") in system.timers.pending:
            system.fire(stream_of(lead))
    system.settle()
    assert dispositions(system, range(6, 8)) == ["MessageCompleted"] * 2
    made = [(request.key, request.attempt) for request in target.requests]
    assert len(made) == len(set(made)), "a call went out twice"


def test_a_breaker_under_load_answers_every_call_once(boot: Boot) -> None:
    log = Log()
    script = ("done", "done", "fail", "fail", "done", "unknown", "fail") * 6 + ("throttle",)
    target = HeldTarget("none", script, cycle=True)
    send(log, range(300))
    policy = BreakerPolicy(open_us=1_000, open_cap_us=1_000, failure_rate=0.3)
    system = boot(log, {"notify_sales": target}, policy=policy)

    def all_settled() -> None:
        system.clock.pass_time(5)  # type: ignore[attr-defined]
        for address, slot in list(system.timers.pending):
            system.fire(address, slot)
        system.settle()
        done = {"MessageCompleted", "MessageDeadLettered"}
        assert {system.kinds(f"lead-{n}")[-1] for n in range(300)} <= done

    eventually(all_settled, within=60)
    assert system.calls.count() == 0
    assert not breaker_of(system)._out
    attempts = [(r.key, r.attempt) for r in target.requests]
    assert len(attempts) == len(set(attempts)), "an attempt was made twice"
    assert "BreakerOpened" in transitions(system)


def test_a_call_in_flight_is_not_begun_again() -> None:
    told: list[tuple[str, object]] = []
    calls = CallRegistry(lambda address, it: told.append((address, it)), lambda _: True)
    call = ActionCall("lead:b:l", "k", 1, "notify_sales", "t", received(), "")
    calls.begin(call)
    calls.begin(call)
    assert told == [("breaker:t", call)]
    assert calls.in_flight("k")
    calls.end(call, Done())
    assert told[-1] == ("lead:b:l", RecordOutcome("k", 1, Done()))
    assert not calls.in_flight("k")


def test_a_call_is_forgotten_only_once_its_outcome_is_told() -> None:
    flying: list[bool] = []
    calls: CallRegistry
    calls = CallRegistry(lambda *_: flying.append("k" in calls._attempts), lambda _: True)
    call = ActionCall("lead:b:l", "k", 1, "notify_sales", "t", received(), "")
    calls.begin(call)
    calls.end(call, Unknown("?"))
    assert flying == [True, True]
    assert not calls.in_flight("k")


def test_the_end_of_an_earlier_attempt_leaves_the_one_at_work_in_flight() -> None:
    """H4."""
    calls = CallRegistry(lambda *_: None, lambda _: True)
    first = ActionCall("lead:b:l", "k", 1, "notify_sales", "t", received(), "")
    second = ActionCall("lead:b:l", "k", 2, "notify_sales", "t", received(), "")
    calls.begin(first)
    calls.begin(second)
    calls.end(first, Unknown("?"))
    assert calls.in_flight("k")
    calls.end(second, Unknown("?"))
    assert not calls.in_flight("k")


def test_a_call_that_loops_for_ever_is_broken_off_and_gives_its_thread_back(boot: Boot) -> None:
    class Looping(HeldTarget):
        def call(self, request: TargetRequest) -> Outcome:
            self.requests.append(request)
            while True:
                pass

    log, target = Log(), Looping("once")
    log.message("m1")
    system = boot(log, {"notify_sales": target})
    eventually(lambda: bool(breaker_of(system).staff.stretches))
    breaker = breaker_of(system)
    [(number, (call, began))] = breaker.staff.running.items()
    looping = threading.active_count()
    breaker.staff.running[number] = (call, began - 100.0)
    system.fire(BREAKER, "watch")
    system.settle()
    eventually(lambda: threading.active_count() < looping)
    eventually(lambda: not breaker.staff.replaced)
    assert not breaker.staff.stretches
    assert [e.category for e in system.events() if isinstance(e, ev.MessageDeadLettered)] == [
        "outcome_unknown"
    ]
