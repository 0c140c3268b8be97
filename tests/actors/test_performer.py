"""From an action's call to its target's answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, NoOpTracer, NoOpTracerProvider

from actors.executors.registry import discover
from actors.performer import answer_of, performer, request_of
from domain import events as ev
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, NotCalled, Unknown
from domain.ports import ActionCall
from tests.support.actors_outside import T0, HeldTarget

MESSAGE = ev.MessageReceived("m1", "k", "lead-1", "acme-foods", "acme", "ORDER_REQUEST", 1.0, "{}")
TASK = ev.Task("t1", "order_processing", "t", "", "high", "team", "orders", T0, "acme")


def call(attempt: int = 1, *, undo: bool = False) -> ActionCall:
    key = "k/0.create_order/undo" if undo else "k/0.create_order"
    task = TASK if undo else None
    remote = {"id": "o-1"} if undo else {}
    return ActionCall("s", key, attempt, "create_order", "t", MESSAGE, "soon", undo, task, remote)


def test_every_attempt_asks_for_the_same_but_for_its_number() -> None:
    executor = discover()["create_order"]
    first, second = request_of(executor, call(1)), request_of(executor, call(2))
    assert (first.attempt, second.attempt) == (1, 2)
    assert (first.key, first.kind, first.fields, first.remote) == (
        second.key,
        second.kind,
        second.fields,
        second.remote,
    )


def test_an_undo_says_what_is_void_under_its_own_key_with_the_ids_that_the_target_gave() -> None:
    executor = discover()["create_order"]
    undo = request_of(executor, call(undo=True))
    assert (undo.kind, undo.key) == ("order.cancel", "k/0.create_order/undo")
    assert undo.fields["task_id"] == "t1"
    assert undo.remote == {"id": "o-1"}


@pytest.mark.parametrize("trace", ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "rubbish"])
def test_a_call_is_made_whatever_its_trace(trace: str) -> None:
    target = HeldTarget()
    traced = ActionCall("s", "k", 1, "create_order", "t", MESSAGE, "soon", trace=trace)
    assert isinstance(performer(discover()["create_order"], target)(traced), Done)
    assert target.keys() == ["k"]


class KeptSpan(NonRecordingSpan):
    """A span that keeps what is said of it."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.said = said

    def set_attribute(self, key: str, value: Any) -> None:
        self.said[key] = value


class KeptTracer(NoOpTracer):
    def __init__(self) -> None:
        self.said: dict[str, Any] = {}

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Iterator[Any]:  # type: ignore[override]
        self.said |= {"name": name, **kwargs["attributes"]}
        yield KeptSpan(self.said)


def test_a_span_names_the_target_the_key_the_attempt_and_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    tracer = KeptTracer()
    monkeypatch.setattr(trace, "get_tracer_provider", NoOpTracerProvider)
    monkeypatch.setattr("actors.performer._tracer", tracer)
    performer(discover()["create_order"], HeldTarget())(call(2, undo=True))
    assert tracer.said == {
        "name": "create_order.undo",
        "leadline.target": "t",
        "leadline.attempt": 2,
        "leadline.idempotency_key": "k/0.create_order/undo",
        "leadline.outcome": "Done",
    }


@pytest.mark.parametrize(
    "answer",
    [
        Done(),
        Done({"id": "1"}),
        Failed("x", 5, throttled=True),
        FailedForGood("x"),
        Misconfigured("x", switched_off=True),
        Unknown("x"),
    ],
)
def test_an_outcome_is_handed_on_as_it_is(answer: object) -> None:
    assert answer_of(answer) == answer


def test_ids_are_text_that_every_store_takes() -> None:
    assert answer_of(Done({"id": 7, "nul": "a\0b"})) == Done({"id": "7", "nul": "a\ufffdb"})  # type: ignore[dict-item]


def test_a_target_that_says_it_made_no_call_has_failed_and_may_be_tried_again() -> None:
    assert answer_of(NotCalled(5)) == Failed("the target made no call", retry_after_us=5)


@pytest.mark.parametrize("answer", [None, True, {"id": 1}, "done"])
def test_what_is_no_outcome_may_have_happened(answer: object) -> None:
    assert isinstance(answer_of(answer), Unknown)
