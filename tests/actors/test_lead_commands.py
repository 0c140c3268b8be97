"""People's commands to a lead: each has one answer, and it goes to an inbox."""

from __future__ import annotations

from pathlib import Path

import msgspec

from domain import events as ev
from domain.commands import CommandOutcome, DiscardDeadLetter, RetryDeadLetter, StartTask
from projections.queries import Views
from projections.rebuild import rebuild
from projections.schema import maybe_instant
from tests.support.actors_outside import HeldTarget
from tests.support.actors_system import Boot, Log, rejects_of, stream_of
from tests.support.projections_log import MemoryLog

LEAD = stream_of()


def test_a_refused_command_that_comes_again_is_answered_from_the_record(boot: Boot) -> None:
    log = Log()
    command = StartTask(command_id="c1", by="ann", task_id="none", reply_to="_INBOX.ann")
    log.command(command)
    first = boot(log)
    first.settle()
    [(subject, body)] = first.replies.published
    assert subject == "_INBOX.ann"
    told = msgspec.json.decode(body, type=CommandOutcome)
    assert not told.done
    before = first.history(LEAD)
    first.crash()  # its position was not written: the command is read again
    log.command(command)  # and given again
    second = boot(log)
    second.settle()
    assert [msgspec.json.decode(b, type=CommandOutcome) for _, b in second.replies.published] == [told, told]
    assert second.history(LEAD) == before
    assert second.position_is_complete()


def test_a_command_is_refused_for_good_even_where_it_would_succeed_later(boot: Boot) -> None:
    log = Log()
    log.message("m1")
    system = boot(log)
    system.settle()
    executed = next(e for e in system.events() if isinstance(e, ev.ActionExecuted))
    log.command(DiscardDeadLetter(command_id="c1", by="ann", dead_letter_id="none"))
    log.command(StartTask(command_id="c1", by="ann", task_id=executed.task.task_id))
    system.read()
    system.settle()
    assert system.kinds()[-1] == "CommandRefused"


def test_a_command_that_would_answer_elsewhere_than_to_an_inbox_is_rejected(boot: Boot) -> None:
    log = Log()
    log.command(StartTask(command_id="c1", by="mallory", task_id="t", reply_to="$JS.API.STREAM.DELETE.LEADS"))
    system = boot(log)
    system.settle()
    assert system.replies.published == []
    [rejected] = system.everything()
    assert isinstance(rejected.event, ev.MessageRejected)
    assert "reply_to" in rejected.event.reason
    assert system.position_is_complete()


def test_a_command_that_cannot_be_taken_is_answered_where_it_says_by_whom_and_where_to(boot: Boot) -> None:
    log = Log()
    log.raw(b'{"command": "dance", "command_id": "c1", "by": "ann", "reply_to": "_INBOX.ann"}', kind="cmd")
    log.raw(b'{"command": "dance", "command_id": "c2", "by": "ann", "reply_to": "$JS.API.x"}', kind="cmd")
    system = boot(log)
    system.settle()
    [(subject, body)] = system.replies.published
    told = msgspec.json.decode(body, type=CommandOutcome)
    assert (subject, told.command_id, told.done) == ("_INBOX.ann", "c1", False)
    assert "dance" in told.reason
    assert [type(r.event) for r in system.history(rejects_of())] == [ev.MessageRejected] * 2


def test_the_calls_of_a_retry_that_ends_well_count_in_its_row(boot: Boot, tmp_path: Path) -> None:
    log = Log()
    sales = HeldTarget("keyed", ("fail_for_good", "done"))
    log.order("m1")
    system = boot(log, {"create_order": HeldTarget(), "notify_sales": sales})
    system.settle()
    letter = system.events()[-1]
    assert isinstance(letter, ev.MessageDeadLettered)
    assert letter.attempts == 3  # the order, the notification, the order's compensation
    log.command(RetryDeadLetter(command_id="c1", by="ann", dead_letter_id=letter.dead_letter_id))
    system.read()
    system.settle()
    rebuild(MemoryLog(system.everything()), tmp_path / "views.db", batch=1)
    [row] = Views(tmp_path / "views.db").dead_letters()
    assert (row["status"], row["attempt_count"]) == ("resolved", 5)
    completed = system.events()[-1]
    assert isinstance(completed, ev.MessageCompleted)
    assert row["last_attempt_at"] == maybe_instant(completed.last_attempt_at)
