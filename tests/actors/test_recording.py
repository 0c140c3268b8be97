"""Recording actors beside a second writer, and with rows that the store refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from actors.protocol import Committed, Conflict
from domain import codec
from domain import events as ev
from tests.support.actors_outside import HeldTarget
from tests.support.actors_system import ActorSystem, Boot, Log, rejects_of, stream_of
from tests.support.eventually import eventually

LEAD = stream_of()


def received(system: ActorSystem) -> list[str]:
    return [e.message_id for e in system.events() if isinstance(e, ev.MessageReceived)]


def test_a_stale_writer_reads_again_and_has_no_second_effect(boot: Boot) -> None:
    """The first process is stopped, the second takes over from the same log, the first goes on."""
    log, target = Log(), HeldTarget("once")
    log.message("m0")
    first = boot(log, {"notify_sales": target})
    first.settle()
    for n in range(1, 20):
        log.message(f"m{n}")
    second = boot(log, {"notify_sales": target})
    second.settle()
    before = second.history(LEAD)
    assert len(target.requests) == 20
    first.read()  # its lead knows m0 alone
    first.settle()
    assert first.history(LEAD) == before
    assert len(target.requests) == 20
    assert first.position_is_complete()


def test_two_writers_at_once_have_one_history_and_one_effect_a_message(boot: Boot) -> None:
    log, target = Log(), HeldTarget("keyed")
    first = boot(log, {"notify_sales": target})
    second = boot(log, {"notify_sales": target})
    for n in range(200):
        log.message(f"m{n}", f"lead-{n % 5}")
        first.read()
        second.read()
    first.settle()
    second.settle()
    for lead in range(5):
        ids = [f"m{n}" for n in range(lead, 200, 5)]
        events = first.events(f"lead-{lead}")
        assert [e.message_id for e in events if isinstance(e, ev.MessageReceived)] == ids
        assert [e.message_id for e in events if isinstance(e, ev.MessageCompleted)] == ids
    assert first.position_is_complete()
    assert second.position_is_complete()
    assert len(target.effects()) == 200


def test_an_answer_to_an_append_that_nobody_remembers_is_taken_for_nobodys(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log)
    system.settle()
    system.directory.tell(LEAD, Conflict(LEAD, 123_456))
    system.directory.tell(LEAD, Committed(LEAD, 99, 123_456))
    log.message("m2")
    system.read()
    system.settle()
    assert received(system) == ["m1", "m2"]


def test_an_answer_of_an_earlier_append_says_nothing_of_the_one_under_way(boot: Boot) -> None:
    """H3: what is under way is not durable yet, and no call is made before."""
    log, target = Log(), HeldTarget("once")
    target.hold()
    system = boot(log, {"notify_sales": target})
    with closing(sqlite3.connect(system.folder / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.message("m1")
        system.read()
        eventually(lambda: system.directory._leads[LEAD]._append_id != 0)
        lead = system.directory._leads[LEAD]
        system.directory.tell(LEAD, Committed(LEAD, 99, 123_456))
        eventually(lambda: not (lead.actor_inbox.mail or lead.actor_inbox.scheduled))
        assert not lead.at_rest()
        assert system.calls.count() == 0
        other.execute("ROLLBACK")
    target.release()
    system.settle()
    assert len(target.requests) == 1


def test_mail_that_comes_while_an_append_clashes_stays_behind_what_clashed(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    beside = ev.Recorded(LEAD, 1, ev.DuplicateDetected("m0"), "another-1", system.clock.now())
    with closing(sqlite3.connect(system.folder / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO stored_events VALUES (?, ?, ?, ?)", (LEAD, 1, *codec.encode(beside)))
        log.message("m1")
        system.read()
        eventually(lambda: system.directory._leads[LEAD]._append_id != 0)
        log.message("m2")
        system.read()
        eventually(lambda: len(system.directory._leads[LEAD].waiting) == 1)
        other.execute("COMMIT")
    system.settle()
    assert received(system) == ["m1", "m2"]
    assert system.position_is_complete()


def test_a_lead_whose_rows_the_store_refuses_is_stopped_and_no_other(boot: Boot) -> None:
    log = Log()
    system = boot(log)
    with closing(sqlite3.connect(system.folder / "events.db")) as connection, connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON stored_events"
            f" WHEN NEW.originator_id = '{LEAD}' BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
    for n in range(50):
        log.message(f"m{n}", f"lead-{n % 10}")
    system.read()
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [LEAD])
    system.settle()
    for n in set(range(10)) - {1}:
        assert system.kinds(f"lead-{n}").count("MessageCompleted") == 5
    stopped = system.history(rejects_of())[0].event
    assert isinstance(stopped, ev.LeadStopped)
    assert "no room" in stopped.error
    assert system.position_is_complete()


def test_nothing_is_done_before_it_is_durable(boot: Boot) -> None:
    """A busy store: neither call, nor reply, nor position, until the append is through."""
    log, target = Log(), HeldTarget("keyed")
    system = boot(log, {"notify_sales": target})
    with closing(sqlite3.connect(system.folder / "events.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        log.message("m1")
        system.read()
        eventually(lambda: system.directory._leads[LEAD]._append_id != 0)
        eventually(system.journal_actor.actor_inbox.empty)
        assert target.requests == []
        assert system.positions.in_hand() == 1
        other.execute("ROLLBACK")
    system.settle()
    assert len(target.requests) == 1
    assert system.position_is_complete()
