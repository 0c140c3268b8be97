"""The executors: one a file, found by name, and pure."""

from __future__ import annotations

from datetime import timedelta
from types import ModuleType

import msgspec
import pytest

from actors.executors.create_order import EXECUTOR as CREATE_ORDER
from actors.executors.registry import discover
from domain import events as ev
from domain.errors import SettingsError
from domain.ports import ActionCall

#: Design, section 4: action, task type, assigned to, due, priority.
TABLE = [
    ("notify_sales", "sales_notification", "team", "sales", 24, "normal"),
    ("create_order", "order_processing", "team", "orders", 4, "high"),
    ("create_support_ticket", "support_ticket", "team", "support", 2, "high"),
    ("flag_for_review", "lead_review", "role", "reviewer", 24, "low"),
]


@pytest.mark.parametrize(("action", "task_type", "kind", "who", "hours", "priority"), TABLE)
def test_an_actions_task_is_as_the_design_has_it(
    action: str, task_type: str, kind: str, who: str, hours: int, priority: str
) -> None:
    spec = discover()[action].spec
    assert (spec.name, spec.task_type, spec.assigned_to_type, spec.assigned_to_id) == (
        action,
        task_type,
        kind,
        who,
    )
    assert (spec.due, spec.priority) == (timedelta(hours=hours), priority)


def test_a_complaint_is_urgent_for_sales() -> None:
    assert discover()["notify_sales"].spec.priority_for == {"COMPLAINT": "high"}


def test_there_are_the_four_actions_and_no_more() -> None:
    assert sorted(discover()) == sorted(row[0] for row in TABLE)


def test_a_users_executor_takes_the_place_of_ours_and_a_new_one_stands_beside() -> None:
    module = ModuleType("theirs")
    faster = msgspec.structs.replace(CREATE_ORDER.spec, due=timedelta(hours=1))
    other = msgspec.structs.replace(CREATE_ORDER.spec, name="call_back")
    module.EXECUTOR = msgspec.structs.replace(CREATE_ORDER, spec=faster)  # type: ignore[attr-defined]
    module.EXECUTORS = [msgspec.structs.replace(CREATE_ORDER, spec=other)]  # type: ignore[attr-defined]
    found = discover([module])
    assert found["create_order"].spec.due == timedelta(hours=1)
    assert set(found) == {row[0] for row in TABLE} | {"call_back"}


def test_what_is_no_executor_is_said_with_its_module() -> None:
    module = ModuleType("theirs")
    module.EXECUTOR = "create_order"  # type: ignore[attr-defined]
    with pytest.raises(SettingsError, match=r"modules: theirs\.EXECUTOR is not an Executor"):
        discover([module])


@pytest.mark.parametrize("action", [row[0] for row in TABLE])
def test_what_a_target_is_told_is_plain_json(action: str) -> None:
    message = ev.MessageReceived("m1", "k", "lead-1", "b", "t", "COMPLAINT", 1.0, "{}", {"product": "x"})
    call = ActionCall("s", "k", 1, action, "t", message, "soon")
    executor = discover()[action]
    for fields in (executor.fields(call), executor.undo_fields(call)):
        assert msgspec.json.decode(msgspec.json.encode(fields)) == fields
    assert executor.fields(call)["entities"] == {"product": "x"}
    assert executor.kind != executor.undo_kind
