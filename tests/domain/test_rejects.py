"""What a partition could not take: recorded once [H13], amended, sent back, and a stopped lead's mail kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from domain import codec, rejects
from domain import commands as co
from domain import events as ev
from domain.errors import Rejected
from domain.events import CommandRefused, Event, MessageRejected, Place, Recorded
from domain.messages import MAX_MESSAGE_BYTES, payload_bytes, printable_payload
from domain.rejects import RejectRow, RejectsState
from tests.support.domain_given import INCARNATION, T0, names

PARTITION = "rejects:3"
LEAD = "lead:acme-foods:lead-1"


def place(sequence: int, incarnation: str = INCARNATION) -> Place:
    return Place(incarnation, 3, sequence)


def rejected(sequence: int = 1, **fields: Any) -> MessageRejected:
    values: dict[str, Any] = {
        "dead_letter_id": rejects.reject_id(place(sequence)),
        "category": "rejected",
        "reason": "not JSON",
        "subject": "leads.in.acme-foods.lead-1",
        "payload": "hello",
        "size": 5,
        **fields,
    }
    return MessageRejected(**values)


ID = rejected().dead_letter_id


def test_a_lead_whose_stop_is_not_known_any_more_is_stopped_while_its_mail_is_kept() -> None:
    one = Partition()
    one.reject(rejected(1, category="lead_stopped"), place(1))
    assert rejects.stopped_leads(one.state) == {LEAD}
    assert names(one.command(co.ResumeLead(command_id="c", by="ann"))) == ["LeadResumed"]
    assert rejects.stopped_leads(one.state) == set()


class Partition:
    """The rejects of one partition, driven by hand; rebuilt from the encoded events after every step."""

    def __init__(self) -> None:
        self.state = RejectsState(PARTITION)
        self.history: list[Recorded] = []
        self.now = T0
        self.forgotten = False

    def reject(self, event: MessageRejected, at: Place, *, redriven: bool = False) -> Sequence[Event]:
        return self._record(
            rejects.reject(self.state, event, at, redriven=redriven), None if redriven else at
        )

    def stop(self) -> Sequence[Event]:
        return self._record(rejects.stop(self.state, ev.LeadStopped(LEAD, "KeyError", "stack", 3)))

    def command(self, command: co.PersonsCommand, *, unreadable: str = "") -> Sequence[Event]:
        if isinstance(command, co.ResumeLead):
            return self._record(rejects.resume(self.state, LEAD, command, self.kept()), place(99))
        row = self.row(getattr(command, "dead_letter_id", ""))
        return self._record(rejects.decide(self.state, LEAD, command, row, unreadable), place(99))

    def event(self, version: int) -> Any:
        return self.history[version - 1].event

    def row(self, dead_letter_id: str = "") -> RejectRow | None:
        held = rejects.find(self.state, dead_letter_id or ID)
        if held is None:
            return None
        return rejects.row_of(held, self.event(held.rejected), self.event(held.body))

    def kept(self) -> list[str]:
        mail = [self.event(version).dead_letter_id for version in self.state.mail.get(LEAD, ())]
        return [dead_letter_id for dead_letter_id in mail if self.row(dead_letter_id)]

    def answer(self, command_id: str) -> tuple[str, tuple[str, ...]]:
        return rejects.answer_of(self.event(self.state.commands[command_id]))

    @property
    def refusal(self) -> str:
        event = self.history[-1].event
        assert isinstance(event, CommandRefused)
        return event.reason

    def _record(self, events: Sequence[Event], at: Place | None = None) -> Sequence[Event]:
        for event in events:
            recorded = Recorded(PARTITION, len(self.history) + 1, event, "id", self.now, place=at)
            self.history.append(recorded)
            self.state = rejects.evolve(self.state, recorded)
        if not self.forgotten:
            self._check_rebuilt()
        return events

    def forget(self, position: int) -> Sequence[str]:
        self.forgotten = True
        return rejects.forget(self.state, position)

    def _check_rebuilt(self) -> None:
        rebuilt = RejectsState(PARTITION)
        for recorded in self.history:
            name, row = codec.encode(recorded)
            rejects.evolve(rebuilt, codec.decode(name, row, PARTITION, recorded.version))
        assert msgspec.to_builtins(rebuilt) == msgspec.to_builtins(self.state)


def with_one() -> Partition:
    partition = Partition()
    partition.reject(rejected(), place(1))
    return partition


def told(command_id: str = "c1") -> dict[str, Any]:
    return {"command_id": command_id, "by": "ann", "dead_letter_id": ID}


def amend(payload: Any, command_id: str = "c1") -> co.AmendDeadLetter:
    return co.AmendDeadLetter(**told(command_id), changes={"payload": payload})


def test_an_entry_is_recorded_once_however_often_it_is_read() -> None:
    partition = with_one()
    assert partition.reject(rejected(), place(1)) == ()
    assert names(partition.reject(rejected(2), place(2))) == ["MessageRejected"]
    assert names(partition.reject(rejected(1), place(1, "another.0"))) == ["MessageRejected"]


def test_a_rejects_id_follows_from_incarnation_and_sequence() -> None:
    ids = {rejects.reject_id(place(n, incarnation)) for n in (1, 2) for incarnation in ("a.0", "a.1")}
    assert len(ids) == 4
    assert rejects.reject_id(place(1)) == ID


def test_a_reject_of_another_subject_is_not_to_be_had_whoever_knows_its_id() -> None:
    partition = with_one()
    discard = co.DiscardDeadLetter(**told())
    [refused] = rejects.decide(partition.state, "lead:globex-bank:lead-1", discard, partition.row(), "")
    assert isinstance(refused, CommandRefused)
    assert refused.reason == "there is no open reject with this id"


def test_a_body_that_is_amended_can_be_sent_back() -> None:
    partition = with_one()
    assert names(partition.command(amend('{"a":1}'))) == ["DeadLetterAmended"]
    retried = partition.command(co.RetryDeadLetter(**told("c2")))
    assert retried == (ev.DeadLetterRetried(ID, None, 2, "c2", "ann", ""),)
    assert partition.answer("c2") == ("", (ID,))


def test_what_still_cannot_be_taken_is_not_sent_back() -> None:
    partition = with_one()
    partition.command(co.RetryDeadLetter(**told()), unreadable="it still cannot be taken: not JSON")
    assert partition.refusal == "it still cannot be taken: not JSON"


def test_what_comes_back_refused_falls_into_its_own_row() -> None:
    partition = with_one()
    partition.command(co.RetryDeadLetter(**told()))
    again = rejected(reason="unknown business")
    assert names(partition.reject(again, place(99), redriven=True)) == ["MessageRejected"]
    assert partition.reject(again, place(99), redriven=True) == ()
    row = partition.row()
    assert row is not None
    assert (row.run, row.state) == (2, "open")
    assert names(partition.command(co.RetryDeadLetter(**told("c2")))) == ["DeadLetterRetried"]


@pytest.mark.parametrize("kind", [co.RetryDeadLetter, co.ResolveDeadLetter, co.DiscardDeadLetter])
def test_what_is_on_its_way_takes_no_other_command(kind: Any) -> None:
    partition = with_one()
    partition.command(co.RetryDeadLetter(**told()))
    partition.command(kind(**told("c2")))
    assert partition.refusal == "it is on its way already"


@pytest.mark.parametrize(
    ("command", "event"),
    [(co.ResolveDeadLetter, "DeadLetterResolved"), (co.DiscardDeadLetter, "DeadLetterDiscarded")],
)
def test_a_reject_that_is_settled_is_gone(command: Any, event: str) -> None:
    partition = with_one()
    assert names(partition.command(command(**told()))) == [event]
    partition.command(co.RetryDeadLetter(**told("c2")))
    assert partition.refusal == "there is no open reject with this id"
    assert partition.reject(rejected(), place(1)) == ()


@pytest.mark.parametrize(
    "payload",
    [None, 7, ["x"], "a\0b", "base64:a", "base64:!!!!", "base64:é", "x" * (MAX_MESSAGE_BYTES + 1)],
)
def test_an_amended_body_that_cannot_be_kept_is_refused(payload: Any) -> None:
    partition = with_one()
    assert names(partition.command(amend(payload))) == ["CommandRefused"]


def test_only_the_body_of_a_reject_can_be_amended() -> None:
    partition = with_one()
    for changes in ({}, {"text": "x"}, {"payload": "x", "text": "y"}):
        told_so = {**told(f"c{len(changes)}{len(partition.history)}"), "changes": changes}
        assert names(partition.command(co.AmendDeadLetter(**told_so))) == ["CommandRefused"]


def test_an_amended_body_may_be_given_as_bytes() -> None:
    partition = with_one()
    partition.command(amend("base64:" + "QUJD" * 10))
    row = partition.row()
    assert row is not None
    assert (row.size, row.payload) == (30, "base64:" + "QUJD" * 10)


def test_a_command_is_not_redriven() -> None:
    partition = Partition()
    partition.reject(rejected(subject="leads.cmd.acme-foods.lead-1"), place(1))
    partition.command(co.RetryDeadLetter(**told()))
    assert partition.refusal == "a command is not redriven: give it again"


@pytest.mark.parametrize("command", [co.RetryDeadLetter(**told()), amend("hello")])
def test_a_command_that_is_kept_for_a_stopped_lead_waits_for_its_resume_as_it_is(
    command: co.PersonsCommand,
) -> None:
    partition = Partition()
    partition.stop()
    partition.reject(rejected(subject="leads.cmd.acme-foods.lead-1", category="lead_stopped"), place(1))
    partition.command(command)
    assert "`leadline lead resume` delivers" in partition.refusal
    assert names(partition.command(co.DiscardDeadLetter(**told("c2")))) == ["DeadLetterDiscarded"]
    [resumed] = partition.command(co.ResumeLead(command_id="c3", by="ann"))
    assert isinstance(resumed, ev.LeadResumed)
    assert resumed.dead_letter_ids == ()


def test_a_command_is_answered_from_the_record_by_its_id() -> None:
    partition = Partition()
    partition.command(co.RetryDeadLetter(**told()))
    partition.reject(rejected(), place(1))
    assert partition.command(co.RetryDeadLetter(**told())) == ()
    assert partition.answer("c1")[0] == "there is no open reject with this id"


def test_a_task_is_no_rejects_business() -> None:
    partition = with_one()
    partition.command(co.StartTask(command_id="c1", by="ann", task_id="t1"))
    assert partition.refusal


# stopped leads


def stopped() -> Partition:
    partition = Partition()
    partition.stop()
    for n in (1, 2, 3):
        partition.reject(rejected(n, category="lead_stopped"), place(n))
    partition.reject(rejected(4, category="lead_stopped", subject="leads.in.acme-foods.other"), place(4))
    return partition


def test_a_lead_is_stopped_once() -> None:
    assert stopped().stop() == ()


def test_resuming_sends_back_the_leads_own_mail_in_order() -> None:
    partition = stopped()
    resume = co.ResumeLead(command_id="c1", by="ann", why="mended")
    ids = tuple(rejects.reject_id(place(n)) for n in (1, 2, 3))
    assert partition.command(resume) == (ev.LeadResumed(LEAD, ids, "c1", "ann", "mended"),)
    assert partition.state.stopped == set()
    assert partition.state.resumed[LEAD] == place(99)
    assert partition.command(resume) == ()
    partition.command(co.ResumeLead(command_id="c2", by="ann"))
    assert partition.refusal == "this lead is not stopped"


def test_a_stopped_leads_message_is_not_retried_alone() -> None:
    partition = stopped()
    partition.command(co.RetryDeadLetter(**told()))
    assert "leadline lead resume" in partition.refusal


def test_a_lead_that_stops_again_keeps_its_mail_in_order() -> None:
    partition = stopped()
    partition.command(co.ResumeLead(command_id="c1", by="ann"))
    partition.stop()
    for n in (1, 2, 3):
        partition.reject(rejected(n, category="lead_stopped"), place(99), redriven=True)
    partition.reject(rejected(5, category="lead_stopped"), place(5))
    event = partition.command(co.ResumeLead(command_id="c2", by="ann"))[0]
    assert isinstance(event, ev.LeadResumed)
    assert event.dead_letter_ids == tuple(rejects.reject_id(place(n)) for n in (1, 2, 3, 5))


# what is forgotten


def test_what_is_below_the_position_is_forgotten_and_known_all_the_same() -> None:
    partition = Partition()
    for n in range(1, 11):
        partition.reject(rejected(n), place(n))
    partition.forget(7)
    assert partition.state.sequences == {8, 9, 10}
    for n in range(1, 11):
        assert partition.reject(rejected(n), place(n)) == ()
    assert names(partition.reject(rejected(11), place(11))) == ["MessageRejected"]
    assert names(partition.reject(rejected(3), place(3, "another.0"))) == ["MessageRejected"]
    assert names(partition.reject(rejected(4), place(4, "another.0"))) == ["MessageRejected"]


def test_what_came_late_is_no_repeat_of_what_was_forgotten() -> None:
    """A lead's mail that was held while others of its partition were rejected: no position has passed it."""
    partition = Partition()
    for n in (1, 2, 4, 5):
        partition.reject(rejected(n), place(n))
    partition.forget(2)
    assert names(partition.reject(rejected(3), place(3))) == ["MessageRejected"]
    assert partition.reject(rejected(3), place(3)) == ()


def test_commands_and_what_they_sent_back_are_remembered_for_nine_days() -> None:
    partition = with_one()
    partition.reject(rejected(2), place(2))
    partition.command(co.RetryDeadLetter(**told()))
    partition.now += timedelta(days=9)
    partition.command(co.DiscardDeadLetter(**told("c2")))
    assert list(partition.forget(0)) == []
    assert set(partition.state.commands) == {"c1", "c2"}
    partition.now += timedelta(days=1)
    partition.command(co.DiscardDeadLetter(**told("c3")))
    assert list(partition.forget(0)) == ["c1"]
    assert partition.row() is None
    assert partition.row(rejects.reject_id(place(2))) is not None
    assert set(partition.state.commands) == {"c2", "c3"}


def test_an_open_reject_costs_less_than_128_bytes_and_a_settled_one_nothing() -> None:
    state, count = RejectsState(PARTITION), 20_000
    reasons = "not JSON", "unknown business"
    tracemalloc.start()
    try:
        for n in range(1, count + 1):
            event = rejected(n, reason=reasons[n % 2], message_id=f"m{n}", payload="x" * 200)
            rejects.evolve(state, Recorded(PARTITION, n, event, f"id-{n}", T0, place=place(n)))
            if n % 1000 == 0:
                rejects.forget(state, n)
        held, _ = tracemalloc.get_traced_memory()
        assert held < 128 * count
        for n in range(1, count + 1):
            discarded = ev.DeadLetterDiscarded(rejects.reject_id(place(n)), None, f"c{n}", "ann", "")
            at = T0 + timedelta(minutes=n)
            rejects.evolve(state, Recorded(PARTITION, count + n, discarded, f"id-{n}", at))
            if n % 1000 == 0:
                rejects.forget(state, count)
        assert state.rows == {}
        assert len(state.commands) < count
    finally:
        tracemalloc.stop()


# bodies as they are kept


@pytest.mark.parametrize("body", [b"", b"hello", b"\xff\x00", b"a\0b", b"base64:", b"base64:a", "é".encode()])
def test_a_body_comes_back_byte_for_byte(body: bytes) -> None:
    assert payload_bytes(printable_payload(body)) == body


@pytest.mark.parametrize("payload", ["base64:a", "base64:a b=", "a\0"])
def test_text_that_stands_for_no_body_is_refused(payload: str) -> None:
    with pytest.raises(Rejected):
        payload_bytes(payload)
