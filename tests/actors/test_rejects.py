"""What a partition cannot take: recorded once, kept whole, sent back to its own subject only."""

from __future__ import annotations

import base64

import msgspec
import pytest

from actors.directory import LeadLimits
from domain import events as ev
from domain.commands import (
    AmendDeadLetter,
    DiscardDeadLetter,
    ResumeLead,
    RetryDeadLetter,
)
from tests.support.actors_outside import Poison
from tests.support.actors_people import obey
from tests.support.actors_system import ActorSystem, Boot, Log, rejects_of, stream_of
from tests.support.eventually import eventually

GOOD = (
    b'{"message_id":"m1","lead_id":"lead-1","business_id":"acme-foods",'
    b'"intent":"PRICING_INQUIRY","confidence":0.9}'
)
STOLEN = GOOD.replace(b"lead-1", b"lead-2")


def rejected(system: ActorSystem) -> list[ev.MessageRejected]:
    found = [r.event for r in system.everything()]
    return [event for event in found if isinstance(event, ev.MessageRejected)]


@pytest.mark.parametrize(
    ("body", "kept"),
    [(b"not json", "not json"), (b"\xff\xfe", "base64:" + base64.b64encode(b"\xff\xfe").decode())],
)
def test_a_body_that_cannot_be_read_is_kept_as_it_came(boot: Boot, body: bytes, kept: str) -> None:
    log = Log()
    log.raw(body)
    system = boot(log)
    system.settle()
    [event] = rejected(system)
    assert event.payload == kept
    assert event.subject == "leads.in.acme-foods.lead-1"
    assert (event.business_id, event.lead_id) == ("acme-foods", "lead-1")
    assert system.position_is_complete()


def test_an_entry_is_rejected_once_however_often_it_is_read(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    log.raw(b"not json")
    first = boot(log)
    first.settle()
    ids = [event.dead_letter_id for event in rejected(first)]
    first.crash()
    second = boot(log)
    second.settle()
    assert [event.dead_letter_id for event in rejected(second)] == ids
    assert len(set(ids)) == 2
    assert second.position_is_complete()


def test_a_reject_holds_up_nothing_behind_it(boot: Boot) -> None:
    log = Log()
    for n in range(200):
        log.raw(b"{")
        log.message(f"m{n}")
    system = boot(log)
    system.settle()
    assert system.kinds().count("MessageCompleted") == 200
    assert len(rejected(system)) == 200
    assert system.position_is_complete()


def test_a_mended_reject_goes_to_its_own_lead_and_takes_effect_once(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    system = boot(log)
    system.settle()
    dead = rejected(system)[0].dead_letter_id
    amend = AmendDeadLetter(
        command_id="c1", by="ann", dead_letter_id=dead, changes={"payload": GOOD.decode()}
    )
    assert obey(system, amend).done
    assert obey(system, RetryDeadLetter(command_id="c2", by="ann", dead_letter_id=dead)).done
    received = next(e for e in system.events() if isinstance(e, ev.MessageReceived))
    assert received.redrive_of == dead
    assert system.kinds()[-1] == "MessageCompleted"
    assert system.position_is_complete()
    before = system.everything()
    system.crash()  # nothing was checkpointed: all of it is read again
    again = boot(log)
    again.settle()
    assert again.everything() == before
    assert again.position_is_complete()


def test_a_reject_may_be_amended_and_retried_in_one_breath(boot: Boot) -> None:
    """The retry is decided before what it retries is durable."""
    log = Log()
    log.raw(b"not json")
    system = boot(log)
    system.settle()
    [event] = rejected(system)
    told = {"by": "ann", "dead_letter_id": event.dead_letter_id}
    for command in (
        AmendDeadLetter(command_id="c1", changes={"payload": GOOD.decode()}, **told),
        RetryDeadLetter(command_id="c2", **told),
    ):
        log.command(command)
    system.read()
    system.settle()
    assert "MessageCompleted" in system.kinds()


def test_a_reject_is_not_redriven_to_another_lead(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    system = boot(log)
    system.settle()
    dead = rejected(system)[0].dead_letter_id
    changes = {"payload": STOLEN.decode()}
    outcome = obey(system, AmendDeadLetter(command_id="c1", by="eve", dead_letter_id=dead, changes=changes))
    assert not outcome.done
    assert "subject and body disagree" in outcome.reason
    assert not obey(system, RetryDeadLetter(command_id="c2", by="eve", dead_letter_id=dead)).done
    assert system.events("lead-2") == system.events("lead-1") == []
    assert system.position_is_complete()


def test_a_reject_stays_the_message_that_it_is(boot: Boot) -> None:
    """Under another id it would end elsewhere, and this row would wait for ever."""
    log = Log()
    log.raw(GOOD.replace(b"0.9", b"9"))
    system = boot(log)
    system.settle()
    told = {"by": "ann", "dead_letter_id": rejected(system)[0].dead_letter_id}
    other = {"payload": GOOD.replace(b'"m1"', b'"m2"').decode()}
    outcome = obey(system, AmendDeadLetter(command_id="c1", changes=other, **told))
    assert not outcome.done
    assert "this is message 'm1', and that one 'm2'" in outcome.reason
    assert obey(system, AmendDeadLetter(command_id="c2", changes={"payload": GOOD.decode()}, **told)).done


def test_a_reject_that_still_cannot_be_taken_is_refused_and_may_be_discarded(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    system = boot(log)
    system.settle()
    dead = rejected(system)[0].dead_letter_id
    assert not obey(system, RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=dead)).done
    assert obey(system, DiscardDeadLetter(command_id="c2", by="ann", dead_letter_id=dead)).done
    gone = obey(system, RetryDeadLetter(command_id="c3", by="ann", dead_letter_id=dead))
    assert not gone.done
    assert system.position_is_complete()


def test_a_refused_command_for_a_reject_is_answered_from_the_record(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    system = boot(log)
    system.settle()
    dead = rejected(system)[0].dead_letter_id
    first = obey(system, RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=dead))
    events = len(system.everything())
    changes = {"payload": GOOD.decode()}
    assert obey(system, AmendDeadLetter(command_id="c2", by="ann", dead_letter_id=dead, changes=changes)).done
    again = obey(system, RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=dead))
    assert (first.done, again.done, again.reason) == (False, False, first.reason)
    assert len(system.everything()) == events + 1


def test_a_retry_that_was_cut_short_is_carried_out_by_the_next_process(boot: Boot) -> None:
    log = Log()
    log.raw(b"not json")
    first = boot(log)
    first.settle()
    dead = rejected(first)[0].dead_letter_id
    changes = {"payload": GOOD.decode()}
    obey(first, AmendDeadLetter(command_id="c1", by="ann", dead_letter_id=dead, changes=changes))
    for actor in first.rejects:  # the process dies between the record and the lead
        actor.shared = msgspec.structs.replace(actor.shared, tell=lambda *_: None)
    obey(first, RetryDeadLetter(command_id="c2", by="ann", dead_letter_id=dead))
    assert first.events() == []
    assert not first.position_is_complete(), "its place is reported by the mail that was sent back"
    first.crash()
    second = boot(log)
    second.settle()
    assert second.kinds()[-1] == "MessageCompleted"
    assert second.position_is_complete()


def test_a_second_writer_makes_the_rejects_read_again_and_lose_nothing(boot: Boot) -> None:
    log = Log()
    first, second = boot(log), boot(log)
    for _ in range(20):
        log.raw(b"{")
        first.read()
        first.settle()
        second.read()
        second.settle()
    assert len(rejected(first)) == 20
    assert [r.version for r in first.history(rejects_of())] == list(range(1, 21))
    assert first.position_is_complete()
    assert second.position_is_complete()


def test_a_resume_that_is_read_again_while_its_lead_is_stopped_again_holds_up_no_position(boot: Boot) -> None:
    log, poison = Log(), Poison("m1")
    log.message("m1", intent="POISON")
    system = boot(log, modules=(poison.module(),), limits=LeadLimits(restart_delays=()))
    eventually(lambda: system.directory.stopped() == [stream_of()])
    for _ in range(2):
        log.command(ResumeLead(command_id="resume", by="ann"))
        system.read()
        eventually(lambda: system.directory.stopped() == [stream_of()])
        system.settle()
    assert [type(r.event).__name__ for r in system.history(rejects_of())] == [
        *("LeadStopped", "MessageRejected", "LeadResumed"),
        *("LeadStopped", "MessageRejected"),
    ]
    assert system.position_is_complete()
    poison.mend()
    assert obey(system, ResumeLead(command_id="another", by="ann")).done
    assert system.kinds()[-1] == "MessageCompleted"
