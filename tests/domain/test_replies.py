"""A reply that came too late is a task for sales, once, in the lead's own history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from domain import commands as co
from domain import replies
from domain.events import CommandRefused, DeadLetterResolved, ReplyExpired
from domain.lead import REMEMBERED
from domain.messages import MAX_MESSAGE_BYTES
from tests.support.domain_given import T0, Story, names


def late(command_id: str = "reply/e-1", **fields: Any) -> co.ExpireReply:
    values: dict[str, Any] = {
        "message_id": "m1",
        "window_ended_at": T0,
        "response": "Yes, we have.",
        "text": "Rye?",
    }
    values |= {"intent": "AVAILABILITY_INQUIRY", **fields}
    return co.ExpireReply(command_id=command_id, by="leadline", why="too late", **values)


def answered() -> Story:
    story = Story()
    story.receive("m1")
    return story


def test_a_late_reply_becomes_a_task_for_sales_that_holds_the_response() -> None:
    story = answered()
    [event] = story.command(late())
    assert isinstance(event, ReplyExpired)
    task = event.task
    assert (task.task_type, task.assigned_to_id, task.tenant_id) == ("sales_notification", "sales", "acme")
    assert (task.description, task.metadata["response"]) == ("Rye?", "Yes, we have.")
    assert "AVAILABILITY_INQUIRY" in task.title
    assert task.due_date == story.now + timedelta(hours=24)
    assert (event.message_id, event.window_ended_at, event.by) == ("m1", T0, "leadline")


def test_the_same_command_makes_no_second_task_and_another_does() -> None:
    story = answered()
    story.command(late())
    assert story.command(late()) == []
    [other] = story.command(late("reply/e-2"))
    assert isinstance(other, ReplyExpired)
    ids = {r.event.task.task_id for r in story.history if isinstance(r.event, ReplyExpired)}
    assert len(ids) == 2


def test_its_task_can_be_completed_like_any_other() -> None:
    story = answered()
    [event] = story.command(late())
    assert isinstance(event, ReplyExpired)
    done = co.CompleteTask(command_id="c9", by="bob", task_id=event.task.task_id)
    assert names(story.command(done)) == ["TaskCompleted"]


def test_a_message_that_the_lead_never_sent_has_no_reply() -> None:
    [event] = answered().command(late(message_id="m2"))
    assert isinstance(event, CommandRefused)
    assert event.reason == "this lead has no such message"


def test_a_lead_that_has_forgotten_ids_takes_it_for_one_of_them() -> None:
    story = answered()
    story.now += REMEMBERED + timedelta(hours=1)
    story.receive("m2")
    assert names(story.command(late())) == ["ReplyExpired"]


def test_a_text_that_no_task_should_hold_is_cut_and_cleaned() -> None:
    [event] = answered().command(late(text="a\0" + "b" * 9000, response="\x1b"))
    assert isinstance(event, ReplyExpired)
    assert len(event.task.description) == 4096
    assert event.task.description.startswith("a\ufffdb")
    assert event.task.metadata["response"] == "\ufffd"


def kept(redrive_of: str = "reject-1", **fields: Any) -> co.RedriveReply:
    return co.RedriveReply(late(**fields), redrive_of)


def test_a_reply_that_was_kept_of_a_stopped_lead_makes_its_task_and_closes_its_dead_letter() -> None:
    story = answered()
    place = story.next_place()
    expired, closed = story.tell(kept(), place=place)
    assert isinstance(expired, ReplyExpired)
    assert isinstance(closed, DeadLetterResolved)
    assert (closed.dead_letter_id, closed.message_id, closed.outcome) == ("reject-1", None, "done")
    assert story.crash().tell(kept(), place=place) == [], "the same resume, again after a crash"


def test_several_replies_come_with_one_resume() -> None:
    story = answered()
    place = story.next_place()
    story.tell(kept("reject-1"), place=place)
    told = names(story.tell(kept("reject-2", command_id="reply/e-2"), place=place))
    assert told == ["ReplyExpired", "DeadLetterResolved"]


def test_a_kept_reply_that_its_lead_has_already_only_closes_its_dead_letter() -> None:
    story = answered()
    story.command(late())
    assert names(story.tell(kept(), place=story.next_place())) == ["DeadLetterResolved"]
    later = names(story.tell(kept(), place=story.next_place()))
    assert later == ["DeadLetterResolved"], "it was kept anew, and a later resume delivers it"
    assert len(story.state.tasks) == 2


def test_a_kept_reply_that_its_lead_refuses_closes_its_dead_letter_too() -> None:
    story = answered()
    told = story.tell(kept(message_id="m2"), place=story.next_place())
    assert names(told) == ["CommandRefused", "DeadLetterResolved"]


def test_of_a_reply_no_more_is_kept_than_its_task_holds() -> None:
    story = answered()
    whole = late(response="\x01" * 300_000, text="\x01" * 300_000, intent="\x01" * 300_000)
    body = replies.kept(whole)
    assert len(body) < MAX_MESSAGE_BYTES
    again = co.decode_command(body)
    assert isinstance(again, co.ExpireReply)
    [of_part] = answered().command(again)
    [of_whole] = story.command(whole)
    assert isinstance(of_part, ReplyExpired)
    assert isinstance(of_whole, ReplyExpired)
    assert of_part.task.metadata["response"] == of_whole.task.metadata["response"]
    assert of_part.task.description == of_whole.task.description
