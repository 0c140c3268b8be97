"""Commands as they come over the log: decoded, or refused whatever the bytes [H14, H15]."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import commands as co
from domain.errors import Rejected

AT = datetime(2026, 11, 2, 8, tzinfo=UTC)
TOLD = {"command_id": "c1", "by": "ann"}


def raw(**fields: Any) -> bytes:
    return msgspec.json.encode({"command": "retry_dead_letter", **TOLD, "dead_letter_id": "d1", **fields})


def refused(body: bytes) -> str:
    with pytest.raises(Rejected) as rejected:
        co.decode_command(body)
    assert rejected.value.reason.startswith("command")
    return rejected.value.reason


@pytest.mark.parametrize(
    "command",
    [
        co.RetryDeadLetter(command_id="c1", by="ann", dead_letter_id="d1", why="again"),
        co.AmendDeadLetter(command_id="c1", by="ann", dead_letter_id="d1", changes={"text": "x"}),
        co.ResolveDeadLetter(command_id="c1", by="ann", dead_letter_id="d1", outcome="done"),
        co.DiscardDeadLetter(command_id="c1", by="ann", dead_letter_id="d1", reply_to="_INBOX.a.b"),
        co.ResumeLead(command_id="c1", by="ann"),
        co.StartTask(command_id="c1", by="ann", task_id="t1"),
        co.CompleteTask(command_id="c1", by="ann", task_id="t1"),
        co.CancelTask(command_id="c1", by="ann", task_id="t1"),
        co.ReassignTask(
            command_id="c1", by="ann", task_id="t1", assigned_to_type="user", assigned_to_id="bob"
        ),
        co.ExpireReply(
            command_id="c1", by="leadline", message_id="m1", window_ended_at=AT, response="yes", text="?"
        ),
    ],
    ids=co.command_name,
)
def test_every_command_comes_over_the_wire_as_it_was_sent(command: co.PersonsCommand) -> None:
    assert co.decode_command(co.encode_command(command)) == command


def late(ended: str) -> bytes:
    return raw(command="expire_reply", message_id="m1", window_ended_at=ended, response="yes")


def test_a_windows_end_is_kept_in_utc_and_refused_by_its_name_where_utc_has_no_such_year() -> None:
    taken = co.decode_command(late("2026-11-02T10:00:00+02:00"))
    assert isinstance(taken, co.ExpireReply)
    assert (taken.window_ended_at, taken.window_ended_at.tzinfo) == (AT, UTC)
    assert refused(late("0001-01-01T00:00:00+14:00")) == (
        "command: window_ended_at must be in the years 1 to 9999 in UTC, is 0001-01-01T00:00:00+14:00"
    )


@pytest.mark.parametrize("subject", ["_INBOX.abc.1", "_INBOX.x", "leads.reply.acme.7"])
def test_an_answer_goes_to_an_inbox_or_to_the_reply_subjects(subject: str) -> None:
    assert co.decode_command(raw(reply_to=subject)).reply_to == subject


@pytest.mark.parametrize(
    "subject",
    [
        "$JS.API.STREAM.DELETE.LEADS",
        "leads.in.acme-foods.lead-1",
        "leads.cmd.acme-foods.lead-1",
        "partition.3.leads",
        "_INBOX",
        "_INBOX.",
        "_INBOX.a.",
        "_INBOX..a",
        "_INBOX.*",
        "_INBOX.>",
        "_INBOX.a b",
        "_INBOX.a\r\nPUB x 0",
        "_inbox.a",
        "x._INBOX.a",
        "leads.reply",
        "leads.reply.",
        "leads.replyx.a",
        "",
        "_INBOX." + "x" * 300,
    ],
)
def test_an_answer_goes_nowhere_else(subject: str) -> None:
    assert "reply_to" in refused(raw(reply_to=subject))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"changes":' * 100_000,
        raw(command="drop_tables"),
        raw(command=None),
        raw(command_id=""),
        raw(command_id="x" * 129),
        raw(command_id="a\0"),
        raw(command_id=7),
        raw(by=""),
        raw(by="x" * 129),
        raw(by="a\n"),
        raw(why="x" * 2001),
        raw(dead_letter_id=7),
        raw(command="resolve_dead_letter", outcome="maybe"),
        raw(command="amend_dead_letter", changes=[]),
        raw(command="reassign_task", task_id="t", assigned_to_type="god", assigned_to_id="x"),
        raw(command="reassign_task", task_id="t", assigned_to_type="user", assigned_to_id=""),
        raw(command="reassign_task", task_id="t", assigned_to_type="user", assigned_to_id="a\0"),
        raw(command="reassign_task", task_id="t", assigned_to_type="user", assigned_to_id="x" * 129),
    ],
)
def test_a_hostile_command_is_refused_with_a_reason(body: bytes) -> None:
    assert len(refused(body)) < 500


def test_no_control_characters_reach_the_record_with_a_reason() -> None:
    assert co.decode_command(raw(why="a\0b\nc")).why == "a\ufffdb\nc"


def test_the_edges_of_what_a_person_says_are_taken() -> None:
    got = co.decode_command(raw(command_id="x" * 128, by="y" * 128, why="z" * 2000))
    assert (len(got.command_id), len(got.by), len(got.why)) == (128, 128, 2000)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_command_or_a_reject_and_nothing_else(body: bytes) -> None:
    assert refused(body)
