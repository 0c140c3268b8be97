"""What people do to tasks: start, complete, cancel, reassign; open ones only."""

from __future__ import annotations

from typing import Any

import pytest

from domain import commands as co
from domain.events import (
    ActionExecuted,
    CommandRefused,
    TaskCancelled,
    TaskCompleted,
    TaskReassigned,
    TaskStarted,
)
from domain.outcomes import FailedForGood
from tests.support.domain_given import Story, names, order
from tests.support.domain_rules import playbook


def with_task() -> tuple[Story, str]:
    story = Story()
    story.receive("m1")
    return story, story.last(ActionExecuted).task.task_id


def told(task_id: str, command_id: str = "c1") -> dict[str, Any]:
    return {"command_id": command_id, "by": "bob", "why": "called", "task_id": task_id}


def test_a_task_is_started_and_completed() -> None:
    story, task = with_task()
    assert story.command(co.StartTask(**told(task))) == [TaskStarted(task, "c1", "bob", "called")]
    done = co.CompleteTask(**told(task, "c2"))
    assert story.command(done) == [TaskCompleted(task, "c2", "bob", "called")]


def test_a_task_can_be_completed_without_having_been_started() -> None:
    story, task = with_task()
    assert names(story.command(co.CompleteTask(**told(task)))) == ["TaskCompleted"]


def test_a_task_is_cancelled() -> None:
    story, task = with_task()
    assert story.command(co.CancelTask(**told(task))) == [TaskCancelled(task, "c1", "bob", "called")]


@pytest.mark.parametrize("started", [False, True])
def test_a_task_is_reassigned_and_stays_as_it_is(*, started: bool) -> None:
    story, task = with_task()
    if started:
        story.command(co.StartTask(**told(task, "c0")))
    reassign = co.ReassignTask(**told(task), assigned_to_type="user", assigned_to_id="carol")
    assert story.command(reassign) == [TaskReassigned(task, "user", "carol", "c1", "bob", "called")]
    assert story.state.tasks == {task: "in_progress" if started else "pending"}


def test_a_task_is_started_once() -> None:
    story, task = with_task()
    story.command(co.StartTask(**told(task)))
    story.command(co.StartTask(**told(task, "c2")))
    assert story.last(CommandRefused).reason == "the task is already in progress"


@pytest.mark.parametrize("end", [co.CompleteTask, co.CancelTask])
@pytest.mark.parametrize("then", [co.StartTask, co.CompleteTask, co.CancelTask])
def test_a_task_that_has_ended_takes_no_more_commands(end: Any, then: Any) -> None:
    story, task = with_task()
    story.command(end(**told(task)))
    assert names(story.command(then(**told(task, "c2")))) == ["CommandRefused"]
    assert story.last(CommandRefused).reason == "this lead has no open task with this id"


def test_another_leads_task_is_unknown_here() -> None:
    story, _ = with_task()
    assert names(story.command(co.StartTask(**told("another")))) == ["CommandRefused"]


def test_a_compensated_task_is_no_longer_open() -> None:
    story = Story(playbook({"notify_sales": "keyed"}))
    story.receive(order())
    task = story.last(ActionExecuted).task.task_id
    story.answer(FailedForGood("no"))
    assert names(story.command(co.StartTask(**told(task)))) == ["CommandRefused"]


def test_a_task_can_be_worked_while_its_message_still_is() -> None:
    story = Story(playbook({"notify_sales": "keyed"}))
    story.receive(order())
    task = story.last(ActionExecuted).task.task_id
    assert names(story.command(co.StartTask(**told(task)))) == ["TaskStarted"]
    story.answer(FailedForGood("no"))
    assert story.state.tasks == {}
