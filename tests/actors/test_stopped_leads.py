"""Commands to a lead that is stopped: refused for good, but for those that it has answered before, and for replies
that came too late."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec
import pytest

from actors import pool
from domain import events as ev
from domain.commands import (
    AmendDeadLetter,
    CommandOutcome,
    DiscardDeadLetter,
    ExpireReply,
    RetryDeadLetter,
    StartTask,
)
from domain.tenants import Tenants
from tests.support.actors_outside import Poison
from tests.support.actors_people import obey, resume, stop_lead
from tests.support.actors_system import BUSINESS, ActorSystem, Boot, Log, rejects_of, stream_of
from tests.support.eventually import eventually


def told_of(system: ActorSystem, command_id: str) -> list[str]:
    """Streams with an event of a command."""
    return [r.stream for r in system.everything() if getattr(r.event, "command_id", None) == command_id]


def with_a_task(boot: Boot, log: Log, poison: Poison) -> tuple[ActorSystem, StartTask, StartTask]:
    """A lead that is stopped, a command that it has carried out, and one that it has refused."""
    system = boot(log, modules=(poison.module(),))
    log.message("m0")
    system.read()
    system.settle()
    executed = next(e for e in system.events() if isinstance(e, ev.ActionExecuted))
    good = StartTask(command_id="good", by="ann", task_id=executed.task.task_id)
    bad = StartTask(command_id="bad", by="ann", task_id="none")
    assert obey(system, good).done
    assert not obey(system, bad).done
    return system, good, bad


def test_what_a_lead_has_answered_is_answered_alike_while_it_is_stopped(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system, good, bad = with_a_task(boot, log, poison)
    before = [obey(system, good), obey(system, bad)]
    stop_lead(system, log, poison)
    for _ in range(2):
        assert [obey(system, good), obey(system, bad)] == before
    system.checkpoint()
    system.crash()

    system = boot(log, modules=(poison.module(),))
    assert [obey(system, good), obey(system, bad)] == before
    poison.mend()
    resume(system, log)
    assert [obey(system, good), obey(system, bad)] == before
    assert len(told_of(system, "good")) == len(told_of(system, "bad")) == 1
    assert system.position_is_complete()


def test_what_a_stopped_lead_has_not_answered_is_refused_for_good(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system, good, _ = with_a_task(boot, log, poison)
    stop_lead(system, log, poison)
    new = msgspec.structs.replace(good, command_id="new")
    refused = obey(system, new)
    assert "stopped" in refused.reason
    system.checkpoint()
    system.crash()
    system = boot(log, modules=(poison.module(),))
    poison.mend()
    resume(system, log)
    assert obey(system, new) == refused
    assert told_of(system, "new") == [rejects_of()]
    assert system.position_is_complete()


# replies that came too late


def late(command_id: str = "reply/1") -> ExpireReply:
    """The outbox has found it too late to answer m1."""
    ends = datetime(2026, 11, 2, tzinfo=UTC)
    return ExpireReply(
        command_id=command_id, by="leadline", message_id="m1", window_ended_at=ends, response="Yes."
    )


def with_a_late_reply(boot: Boot, log: Log, poison: Poison) -> ActorSystem:
    """A lead that is stopped, a reply behind its kept messages, and a message behind that."""
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    system.checkpoint()
    log.command(late())
    log.message("m4")
    system.read()
    system.settle()
    return system


def kept(system: ActorSystem) -> list[ev.MessageRejected]:
    found = [r.event for r in system.everything()]
    return [event for event in found if isinstance(event, ev.MessageRejected)]


def taken(system: ActorSystem) -> list[str]:
    """What the lead has taken since it was resumed, in order."""
    marks = {"MessageReceived", "ReplyExpired", "DeadLetterResolved", "CommandRefused", "DuplicateDetected"}
    return [kind for kind in system.kinds() if kind in marks][1:]


REPLY = ["ReplyExpired", "DeadLetterResolved"]
IN_ORDER = ["MessageReceived"] * 2 + REPLY + ["MessageReceived"]


def test_a_late_reply_to_a_stopped_lead_is_kept_with_its_messages_and_comes_back_in_order(
    boot: Boot,
) -> None:
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    rows = kept(system)
    assert [row.category for row in rows] == ["lead_stopped"] * 4
    assert [row.message_id for row in rows] == ["m2", "m3", None, "m4"]
    assert "'m1' came too late" in rows[2].reason
    assert system.position_is_complete()
    poison.mend()
    resume(system, log)
    assert taken(system) == IN_ORDER
    closed = [e.dead_letter_id for e in system.events() if isinstance(e, ev.DeadLetterResolved)]
    assert closed == [rows[2].dead_letter_id]
    [expired] = [e for e in system.events() if isinstance(e, ev.ReplyExpired)]
    done = StartTask(command_id="start", by="ann", task_id=expired.task.task_id)
    assert obey(system, done).done
    assert system.position_is_complete()


def test_all_of_it_is_read_again_after_a_crash_and_nothing_is_recorded_twice(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    before = system.everything()
    system.crash()
    system = boot(log, modules=(poison.module(),))
    system.settle()
    assert system.everything() == before
    poison.mend()
    resume(system, log)
    before = system.everything()
    system.crash()
    system = boot(log, modules=(poison.module(),))
    system.settle()
    assert system.everything() == before
    assert taken(system) == IN_ORDER
    assert system.position_is_complete()


def test_a_resumed_lead_that_is_stopped_again_keeps_the_reply_anew(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    ids = [row.dead_letter_id for row in kept(system)]
    resume(system, log)
    system.restart_lead()
    system.restart_lead()
    eventually(lambda: system.directory.stopped() == [stream_of()])
    system.settle()
    assert taken(system) == []
    assert [row.dead_letter_id for row in kept(system)] == ids * 2
    poison.mend()
    resume(system, log, "once more")
    assert taken(system) == IN_ORDER
    assert system.position_is_complete()


def test_the_place_of_a_resume_is_recorded_once_all_that_it_delivers_is(
    boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that a crash has the command read again, which delivers what was not recorded yet."""
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.message("m4")
    system.read()
    system.settle()
    poison.mend()
    recorded = system.positions.recorded
    known: list[list[str]] = []

    def look(places: Iterable[ev.Place]) -> None:
        found = list(places)
        if any(place.sequence == len(log.entries) for place in found):
            known.append([e.message_id for e in system.events() if isinstance(e, ev.MessageReceived)])
        recorded(found)

    monkeypatch.setattr(system.positions, "recorded", look)
    monkeypatch.setattr(pool, "TURN", 1)  # each is decided, and recorded, by itself
    resume(system, log)
    assert known == [["m1", "m2", "m3", "m4"]]


def test_the_outbox_may_send_it_twice(boot: Boot) -> None:
    """Each has a dead letter of its own, and the lead makes one task."""
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    log.command(late())
    system.read()
    system.settle()
    poison.mend()
    resume(system, log)
    log.command(late())
    system.read()
    system.settle()
    assert taken(system) == [*IN_ORDER, "DeadLetterResolved"]
    closed = {e.dead_letter_id for e in system.events() if isinstance(e, ev.DeadLetterResolved)}
    assert closed == {row.dead_letter_id for row in kept(system) if row.message_id is None}
    assert system.position_is_complete()


def test_a_kept_reply_that_a_person_discards_does_not_come_back(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    [row] = [row for row in kept(system) if row.message_id is None]
    assert obey(system, DiscardDeadLetter(command_id="c1", by="ann", dead_letter_id=row.dead_letter_id)).done
    poison.mend()
    resume(system, log)
    assert taken(system) == ["MessageReceived"] * 3
    assert system.position_is_complete()


def test_whoever_gave_it_is_answered_once_the_lead_has_it(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = with_a_late_reply(boot, log, poison)
    log.command(msgspec.structs.replace(late("reply/2"), reply_to="_INBOX.bob"))
    system.read()
    system.settle()
    poison.mend()
    resume(system, log)
    [body] = [body for subject, body in system.replies.published if subject == "_INBOX.bob"]
    assert msgspec.json.decode(body, type=CommandOutcome).done


def test_kept_mail_that_cannot_be_taken_any_more_stays_to_be_amended_and_goes_out_then(boot: Boot) -> None:
    log, poison = Log(), Poison("m2")
    system = boot(log, modules=(poison.module(),))
    stop_lead(system, log, poison)
    log.message("m4", tenant_id="acme")
    log.message("m5")
    system.read()
    system.settle()
    moved = Tenants.of({"globex": [BUSINESS]})  # the settings of a later start
    for actor in system.rejects:
        actor.shared = msgspec.structs.replace(actor.shared, tenants=moved)
    poison.mend()
    resume(system, log)
    received = [e.message_id for e in system.events() if isinstance(e, ev.MessageReceived)]
    assert received == ["m1", "m2", "m3", "m5"]
    [kept] = [
        r.event
        for r in system.history(rejects_of())
        if isinstance(r.event, ev.MessageRejected) and r.event.message_id == "m4"
    ]
    why = {"by": "ann", "dead_letter_id": kept.dead_letter_id}
    assert "is not the tenant of" in obey(system, RetryDeadLetter(command_id="r1", **why)).reason
    mended = {"payload": kept.payload.replace('"tenant_id": "acme"', '"tenant_id": "globex"')}
    assert obey(system, AmendDeadLetter(command_id="a", changes=mended, **why)).done
    assert obey(system, RetryDeadLetter(command_id="r2", **why)).done
    assert [e.message_id for e in system.events() if isinstance(e, ev.MessageCompleted)][-1] == "m4"
    assert system.position_is_complete()
