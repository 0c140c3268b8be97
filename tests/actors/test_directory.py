"""The directory: who sleeps, who wakes, who is replaced and who is stopped, with nobody's mail lost or overtaken."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest

from actors import pool
from actors.directory import LeadLimits
from actors.lead import LeadActor
from domain import events as ev
from domain.commands import ResumeLead, StartTask
from tests.support.actors_outside import HeldTarget, Poison, Timers
from tests.support.actors_people import resume, stop_lead
from tests.support.actors_system import ActorSystem, Boot, Log, rejects_of, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()
DROWSY = LeadLimits(idle_sweeps=0)


def received(system: ActorSystem, lead: str = "lead-1") -> list[str]:
    return [e.message_id for e in system.events(lead) if isinstance(e, ev.MessageReceived)]


def completed(system: ActorSystem, lead: str = "lead-1") -> list[str]:
    return [e.message_id for e in system.events(lead) if isinstance(e, ev.MessageCompleted)]


def test_a_lead_without_mail_sleeps_after_so_many_sweeps_and_wakes_at_the_next(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log, limits=LeadLimits(idle_sweeps=2))
    system.settle()
    assert [system.directory.sweep() for _ in range(3)] == [0, 0, 1]
    assert system.directory.gauges()["leads_living"] == 0
    log.message("m2")
    system.read()
    system.settle()
    assert completed(system) == ["m1", "m2"]


def test_mail_starts_the_count_of_sweeps_anew(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log, limits=LeadLimits(idle_sweeps=1))
    system.settle()
    assert system.directory.sweep() == 0
    log.message("m2")
    system.read()
    system.settle()
    assert [system.directory.sweep() for _ in range(2)] == [0, 1]


def test_a_lead_that_waits_for_a_timer_may_sleep_and_the_timer_wakes_it(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed", ("fail", "done"))
    log.message("m1")
    system = boot(log, {"notify_sales": target}, limits=DROWSY)
    system.settle()
    assert system.directory.sweep() == 1
    system.fire(LEAD)
    system.settle()
    assert completed(system) == ["m1"]


def test_no_more_leads_live_than_the_settings_say(boot: Boot) -> None:
    log = Log()
    system = boot(log, limits=LeadLimits(max_living=10))
    for n in range(100):
        log.message("m", f"lead-{n}")
        system.read()
        system.settle()
        assert system.directory.gauges()["leads_living"] <= 10
    assert all(completed(system, f"lead-{n}") == ["m"] for n in range(100))


def test_no_mail_is_lost_where_leads_are_put_to_sleep_all_the_time(boot: Boot) -> None:
    log = Log()
    system = boot(log, limits=LeadLimits(idle_sweeps=-1, max_living=3), threads=4)
    over = threading.Event()

    def sweep() -> None:
        while not over.is_set():
            system.directory.sweep()

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    try:
        for n in range(3000):
            log.message(f"m{n}", f"lead-{n % 7}")
            system.read()
        system.settle(within=60)
    finally:
        over.set()
        sweeper.join()
    assert system.position_is_complete()
    for lead in range(7):
        assert completed(system, f"lead-{lead}") == [f"m{n}" for n in range(lead, 3000, 7)]


def test_a_lead_whose_code_raised_is_tried_again_after_the_pauses_of_the_settings(boot: Boot) -> None:
    log, poison = Log(), Poison("m1")
    log.message("m1", intent="POISON")
    system = boot(log, modules=(poison.module(),))
    address = f"restart:{LEAD}"
    eventually(lambda: (address, "") in system.timers.pending)
    assert system.timers.delay(address) == 1.0
    system.restart_lead()
    assert system.timers.delay(address) == 5.0
    assert poison.tries == 2
    poison.mend()
    log.message("m2")
    system.read()
    system.restart_lead()
    assert completed(system) == ["m1", "m2"]
    assert system.position_is_complete()


def test_failures_are_forgiven_once_the_lead_has_recorded_something(boot: Boot) -> None:
    log, poison = Log(), Poison("m1")
    system = boot(log, modules=(poison.module(),))
    for n in range(4):
        poison.message_ids = {f"m{n}"}
        log.message(f"m{n}", intent="POISON")
        system.read()
        eventually(lambda: (f"restart:{LEAD}", "") in system.timers.pending)
        assert system.timers.delay(f"restart:{LEAD}") == 1.0
        poison.mend()
        system.restart_lead()
    assert completed(system) == ["m0", "m1", "m2", "m3"]


class Published(dict[str, LeadActor]):
    """The living leads; what may happen as soon as one can be found happens then."""

    def __init__(self, then: Callable[[], None]) -> None:
        super().__init__()
        self._then = then

    def __setitem__(self, stream: str, actor: LeadActor) -> None:
        super().__setitem__(stream, actor)
        self._then()


def test_mail_that_comes_while_a_lead_is_restarted_overtakes_nothing(boot: Boot) -> None:
    log, poison = Log(), Poison("m0")
    log.message("m0", intent="POISON")
    system = boot(log, modules=(poison.module(),))
    eventually(lambda: (f"restart:{LEAD}", "") in system.timers.pending)
    for n in range(1, 200):
        log.message(f"m{n}")
    system.read()
    poison.mend()

    def one_more() -> None:
        log.message("m200")
        system.read()

    system.directory._leads = Published(one_more)
    system.restart_lead()
    assert received(system) == [f"m{n}" for n in range(201)]
    assert system.position_is_complete()


def test_mail_in_the_box_of_a_lead_that_fails_comes_after_what_it_failed_at(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, poison = Log(), Poison("m1")
    log.message("m0")
    system = boot(log, modules=(poison.module(),))
    system.settle()
    monkeypatch.setattr(pool, "TURN", 1)  # the first is decided while the second is in the box
    lead = system.directory._leads[LEAD]
    lead.actor_inbox.scheduled = True
    log.message("m1", intent="POISON")
    log.message("m2")
    system.read()
    system.dispatcher.schedule(lead)
    eventually(lambda: (f"restart:{LEAD}", "") in system.timers.pending)
    poison.mend()
    system.restart_lead()
    assert completed(system) == ["m0", "m1", "m2"]


def test_mail_that_comes_while_a_resume_is_found_to_change_nothing_is_kept_with_the_rest(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    resume(system, log, "first")
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [LEAD])
    system.settle()
    [rejects] = [actor for actor in system.rejects if actor.actor_urn == rejects_of()]
    rejects.actor_inbox.scheduled = True  # it looks at the command once the message has come
    log.command(ResumeLead(command_id="first", by="ann"))
    log.message("m4")
    system.read()
    system.dispatcher.schedule(rejects)
    system.settle()
    assert system.directory.stopped() == [LEAD]
    assert system.position_is_complete()
    poison.mend()
    resume(system, log, "second")
    assert completed(system) == ["m1", "m2", "m3", "m4"]


def test_mail_that_comes_while_a_lead_is_resumed_overtakes_nothing(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    poison.mend()

    def one_more() -> None:
        log.message("m4")
        system.read()

    system.directory._leads = Published(one_more)
    resume(system, log)
    assert completed(system) == ["m1", "m2", "m3", "m4"]


def test_a_lead_that_fails_three_times_is_stopped_and_holds_up_nobody(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    assert received(system) == ["m1"]
    kept = [r.event for r in system.history(rejects_of())]
    assert [type(e).__name__ for e in kept] == ["LeadStopped", "MessageRejected", "MessageRejected"]
    assert [e.message_id for e in kept if isinstance(e, ev.MessageRejected)] == ["m2", "m3"]
    assert {e.category for e in kept if isinstance(e, ev.MessageRejected)} == {"lead_stopped"}
    assert isinstance(kept[0], ev.LeadStopped)
    assert "PoisonError" in kept[0].error
    assert "plan" in kept[0].stack
    assert system.position_is_complete()
    log.message("m4")
    log.message("other", "lead-2")
    system.read()
    system.settle()
    assert completed(system, "lead-2") == ["other"]
    assert system.position_is_complete()


def test_a_resumed_lead_gets_its_mail_in_order_with_what_came_meanwhile(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.message("m4")
    system.read()
    system.settle()
    poison.mend()
    log.command(ResumeLead(command_id="resume", by="ann"))
    for n in range(5, 300):
        log.message(f"m{n}")
    system.read()
    system.settle()
    expected = [f"m{n}" for n in range(1, 300)]
    assert received(system) == expected
    assert completed(system) == expected
    assert system.directory.stopped() == []
    assert system.position_is_complete()


def test_a_lead_stays_stopped_over_a_restart_and_a_resume_survives_a_crash(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    first = boot(log, modules=(poison.module(),))
    stop_lead(first, log, poison)
    first.checkpoint()
    first.crash()
    second = boot(log, modules=(poison.module(),))
    log.message("m4")
    second.read()
    second.settle()
    assert second.directory.stopped() == [LEAD]
    poison.mend()
    resume(second, log)
    assert completed(second) == ["m1", "m2", "m3", "m4"]
    before = second.history(LEAD)
    second.crash()  # the positions were not written: the command comes again
    log.message("m5")
    third = boot(log, modules=(poison.module(),))
    third.settle()
    assert third.history(LEAD)[: len(before)] == before
    assert completed(third) == ["m1", "m2", "m3", "m4", "m5"]
    assert third.position_is_complete()


def test_a_resume_cut_before_the_lead_had_its_mail_is_carried_out_by_the_next_process(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    first = boot(log, modules=(poison.module(),))
    stop_lead(first, log, poison)
    first.checkpoint()
    for actor in first.rejects:  # the process dies before it can say so
        actor.shared = msgspec.structs.replace(actor.shared, resumed=lambda *_: None)
    poison.mend()
    log.command(ResumeLead(command_id="resume", by="ann"))
    log.message("m4")
    first.read()
    eventually(lambda: first.history(rejects_of())[-1].event.__class__ is ev.LeadResumed)
    assert not first.position_is_complete()
    first.crash()
    second = boot(log, modules=(poison.module(),))
    second.settle()
    assert completed(second) == ["m1", "m2", "m3", "m4"]
    assert second.position_is_complete()


def test_a_lead_that_fails_again_after_its_resume_keeps_the_rest_in_order(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.message("m4")
    resume(system, log, "first")
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [LEAD])
    system.settle()
    assert system.position_is_complete()
    poison.mend()
    resume(system, log, "second")
    assert completed(system) == ["m1", "m2", "m3", "m4"]
    assert system.position_is_complete()


def test_work_that_was_under_way_goes_on_once_its_lead_is_resumed(boot: Boot) -> None:
    """Its mail is recorded, its call was out: there is nothing to deliver, and still something to do."""
    log, target = Log(), HeldTarget("keyed")
    target.hold()
    log.message("m1")
    system = boot(log, {"notify_sales": target}, limits=LeadLimits(restart_delays=()))
    eventually(lambda: len(target.requests) == 1)
    system.settle()
    system.directory.crashed(system.directory._leads[LEAD], RuntimeError("struck"), None)
    target.release()
    system.settle()
    assert system.directory.stopped() == [LEAD]
    resume(system, log)
    assert completed(system) == ["m1"]


def test_a_resume_of_a_lead_that_is_not_stopped_is_refused_and_changes_nothing(boot: Boot) -> None:
    log, poison = Log(), Poison("m1")
    log.message("m1", intent="POISON")
    system = boot(log, modules=(poison.module(),))
    eventually(lambda: (f"restart:{LEAD}", "") in system.timers.pending)
    resume(system, log)
    assert poison.tries == 1, "the pause after its failure was cut short"
    assert [r.event.__class__ for r in system.history(rejects_of())] == [ev.CommandRefused]
    system.restart_lead()
    assert poison.tries == 2
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [LEAD])


def test_a_command_refused_by_a_stopped_lead_stays_refused_once_it_is_resumed(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.command(StartTask(command_id="c1", by="ann", task_id="t", reply_to="_INBOX.ann"))
    poison.mend()
    log.command(ResumeLead(command_id="c2", by="ann"))
    log.command(StartTask(command_id="c1", by="ann", task_id="t", reply_to="_INBOX.ann"))
    system.read()
    system.settle()
    answers = [msgspec.json.decode(body) for _, body in system.replies.published]
    assert [answer["done"] for answer in answers] == [False, False]
    assert all("stopped" in answer["reason"] for answer in answers)
    assert [k for k in system.kinds() if k in ("TaskStarted", "CommandRefused")] == []
    assert system.position_is_complete()


def test_a_command_to_a_stopped_lead_is_refused_and_its_giver_is_told(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.command(StartTask(command_id="c1", by="ann", task_id="t", reply_to="_INBOX.ann"))
    system.read()
    system.settle()
    kept = system.history(rejects_of())[-1].event
    assert isinstance(kept, ev.CommandRefused)
    assert "stopped" in kept.reason
    assert [subject for subject, _ in system.replies.published] == ["_INBOX.ann"]
    assert system.position_is_complete()


def test_a_history_that_cannot_be_read_stops_its_lead_and_no_other(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    first = boot(log)
    first.settle()
    first.checkpoint()
    first.crash()
    with closing(sqlite3.connect(first.folder / "events.db")) as connection, connection:
        connection.execute("UPDATE stored_events SET state = '{' WHERE originator_version = 2")
    log.message("m2")
    log.message("m3", "lead-2")
    system = boot(log)
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [LEAD])
    system.settle()
    assert completed(system, "lead-2") == ["m3"]
    stopped = system.history(rejects_of())[0].event
    assert isinstance(stopped, ev.LeadStopped)
    assert "version 2 of lead:acme-foods:lead-1" in stopped.error
    assert system.position_is_complete()


def test_mail_to_nobody_is_said_and_harms_nobody(boot: Boot) -> None:
    system = boot(Log(), timers=Timers())
    system.directory.tell("breaker:none", "hello")
    system.settle()
