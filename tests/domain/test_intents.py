"""Which handler takes a message, and what it plans: DESIGN's table, intent by band."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import msgspec
import pytest

from domain.errors import SettingsError
from domain.events import ActionsPlanned, IntentDetected, MessageDeadLettered, MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan
from domain.intents.registry import discover
from domain.playbook import Playbook
from domain.tenants import Business, Tenants, Thresholds
from tests.support.domain_given import Story, message, names
from tests.support.domain_rules import playbook

PRODUCT = {"product": "laptop"}

TABLE: list[tuple[str, dict[str, str], str, tuple[str, ...], bool]] = [
    ("ORDER_REQUEST", PRODUCT, "high", ("create_order", "notify_sales"), False),
    ("ORDER_REQUEST", {}, "high", ("notify_sales",), False),
    ("ORDER_REQUEST", {"product": ""}, "high", ("notify_sales",), False),
    ("ORDER_REQUEST", PRODUCT, "medium", ("notify_sales", "flag_for_review"), True),
    ("ORDER_REQUEST", {}, "medium", ("notify_sales", "flag_for_review"), True),
    ("PRICING_INQUIRY", {}, "high", ("notify_sales",), False),
    ("PRICING_INQUIRY", {}, "medium", ("notify_sales",), False),
    ("AVAILABILITY_INQUIRY", {}, "high", ("notify_sales",), False),
    ("AVAILABILITY_INQUIRY", {}, "medium", ("notify_sales",), False),
    ("COMPLAINT", {}, "high", ("create_support_ticket", "notify_sales"), True),
    ("COMPLAINT", {}, "medium", ("create_support_ticket", "flag_for_review"), True),
    ("SCHEDULE_CALL", {}, "high", ("notify_sales",), False),
    ("SCHEDULE_CALL", {}, "medium", ("notify_sales", "flag_for_review"), True),
    ("UNKNOWN", {}, "high", (), False),
    ("UNKNOWN", {}, "medium", ("flag_for_review",), True),
]
INTENTS = sorted({row[0] for row in TABLE})
EDGES = {"high": (0.80, 1.0), "medium": (0.50, 0.7999)}


def planned(intent: str, confidence: float, rules: Playbook | None = None, **fields: Any) -> Story:
    story = Story(rules)
    story.receive(message("m1", intent, confidence=confidence, **fields))
    return story


@pytest.mark.parametrize(("intent", "entities", "band", "actions", "escalate"), TABLE)
def test_the_table_of_intents_holds_at_both_edges_of_each_band(
    intent: str, entities: dict[str, str], band: str, actions: tuple[str, ...], *, escalate: bool
) -> None:
    for confidence in EDGES[band]:
        story = planned(intent, confidence, entities=entities)
        detected, plan = story.last(IntentDetected), story.last(ActionsPlanned)
        assert (detected.intent, detected.handler, detected.band) == (intent, intent, band)
        assert tuple(step.action for step in plan.actions) == actions
        assert plan.escalate is escalate
        assert plan.response.strip()


@pytest.mark.parametrize("intent", [*INTENTS, "CANCEL_SUBSCRIPTION", "order_request", " ORDER_REQUEST"])
@pytest.mark.parametrize("confidence", [0.0, 0.4999])
def test_below_low_everything_goes_to_a_reviewer(intent: str, confidence: float) -> None:
    story = planned(intent, confidence, entities=PRODUCT)
    assert story.last(IntentDetected) == IntentDetected("m1", intent, "UNKNOWN", confidence, "low")
    plan = story.last(ActionsPlanned)
    assert ([step.action for step in plan.actions], plan.escalate) == (["flag_for_review"], True)


@pytest.mark.parametrize(
    "intent", ["CANCEL_SUBSCRIPTION", "order_request", "Order_Request", "ORDER_REQUEST "]
)
@pytest.mark.parametrize("confidence", [0.5, 0.99, 1.0])
def test_an_intent_nobody_registered_goes_to_a_reviewer_however_sure_the_ai_was(
    intent: str, confidence: float
) -> None:
    story = planned(intent, confidence)
    assert story.last(IntentDetected).handler == "UNKNOWN"
    assert [step.action for step in story.last(ActionsPlanned).actions] == ["flag_for_review"]


def test_the_bands_are_the_businesss_own() -> None:
    careful = Business("acme-foods", "acme", Thresholds(high=0.99, low=0.9))
    rules = msgspec.structs.replace(playbook(), tenants=Tenants({"acme-foods": careful}))
    bands = [planned("PRICING_INQUIRY", c, rules).last(IntentDetected).band for c in (0.99, 0.98, 0.9, 0.89)]
    assert bands == ["high", "medium", "medium", "low"]


def test_the_ais_own_words_go_before_the_handlers() -> None:
    assert planned("PRICING_INQUIRY", 0.9, suggested_response="Mine").last(ActionsPlanned).response == "Mine"
    assert planned("UNKNOWN", 0.9, suggested_response="Mine").last(ActionsPlanned).response == "Mine"


def test_the_question_for_the_product_is_asked_behind_either_response() -> None:
    ours = planned("ORDER_REQUEST", 0.9).last(ActionsPlanned).response
    theirs = planned("ORDER_REQUEST", 0.9, suggested_response="Sure!").last(ActionsPlanned).response
    assert ours.endswith("Which product would you like to order?")
    assert theirs == "Sure! Which product would you like to order?"


# a user's own handler


def module(name: str = "their_handlers", **attributes: Any) -> ModuleType:
    made = ModuleType(name)
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    return made


def handler(intent: str, actions: tuple[str, ...], priority: int = 0) -> IntentHandler:
    def plan(_message: MessageReceived, _band: Band) -> Plan:
        return Plan(actions, "theirs")

    return IntentHandler(intent, plan, priority)


def test_a_users_own_handler_wins_by_priority() -> None:
    theirs = module(HANDLER=handler("PRICING_INQUIRY", ("create_support_ticket",), priority=1))
    story = planned("PRICING_INQUIRY", 0.9, playbook(modules=[theirs]))
    assert [step.action for step in story.last(ActionsPlanned).actions] == ["create_support_ticket"]


def test_at_equal_priority_the_later_module_serves_and_a_lower_one_never() -> None:
    equal = module(HANDLER=handler("PRICING_INQUIRY", (), priority=0))
    later = module(HANDLER=handler("PRICING_INQUIRY", ("flag_for_review",), priority=0))
    lower = module(HANDLER=handler("PRICING_INQUIRY", ("create_order",), priority=-1))
    chosen = discover([equal, later, lower])["PRICING_INQUIRY"]
    assert chosen is later.HANDLER


def test_a_module_can_bring_several_new_intents() -> None:
    both = module(HANDLERS=[handler("REFUND", ("create_support_ticket",)), handler("PRAISE", ())])
    found = discover([both])
    assert set(found) == {*INTENTS, "REFUND", "PRAISE"}


def test_a_handler_is_found_in_a_module_that_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = module("their_refunds", HANDLER=handler("REFUND", ("create_support_ticket",)))
    monkeypatch.setitem(sys.modules, "their_refunds", theirs)
    story = planned("REFUND", 0.9, playbook(modules=[__import__("their_refunds")]))
    assert story.last(IntentDetected).handler == "REFUND"


@pytest.mark.parametrize(
    "attributes",
    [{"HANDLER": "REFUND"}, {"HANDLERS": ["x"]}, {"HANDLERS": handler("REFUND", ())}, {"HANDLERS": 7}],
)
def test_a_module_whose_handler_is_none_is_a_setting_that_is_wrong(attributes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^modules: their_handlers\.HANDLERS? is not"):
        discover([module(**attributes)])


# a handler that misbehaves


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def _raising(error: BaseException) -> Any:
    def plan(_message: MessageReceived, _band: Band) -> Any:
        raise error

    return plan


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no price"), "ValueError: no price"),
        (RecursionError(), "RecursionError: "),
        (SystemExit(3), "SystemExit: 3"),
        (Unspeakable(), "Unspeakable: (its text cannot be read)"),
        (ValueError("a\0b\udc80"), "ValueError: a\ufffdb\ufffd"),
        (ValueError("x" * 1_000_000), "ValueError: x"),
    ],
)
def test_a_handler_that_raises_dead_letters_its_message_and_the_lead_goes_on(
    error: BaseException, said: str
) -> None:
    theirs = module(HANDLER=IntentHandler("REFUND", _raising(error)))
    story = Story(playbook(modules=[theirs]))
    assert names(story.receive("m1", intent="REFUND")) == ["MessageReceived", "MessageDeadLettered"]
    letter = story.last(MessageDeadLettered)
    assert letter.category == "handler_failed"
    assert letter.error.startswith(said)
    assert letter.stack is not None
    assert len(letter.error) <= 2000
    assert len(letter.stack) <= 4000
    assert story.receive("m2")[-1].__class__.__name__ == "MessageCompleted"


@pytest.mark.parametrize(
    ("nonsense", "said"),
    [
        (None, "gave NoneType, not a Plan"),
        ("notify_sales", "gave str, not a Plan"),
        (Plan(("fly",), "x"), "planned 'fly', which no executor carries out"),
        (Plan("notify_sales", "x"), "wrong field"),  # type: ignore[arg-type]
        (Plan(None, "x"), "wrong field"),  # type: ignore[arg-type]
        (Plan((7,), "x"), "wrong field"),  # type: ignore[arg-type]
        (Plan(((),), "x"), "wrong field"),  # type: ignore[arg-type]
        (Plan((), None), "wrong field"),  # type: ignore[arg-type]
        (Plan((), "x", "yes"), "wrong field"),  # type: ignore[arg-type]
        (Plan((), "x", asks=7), "wrong field"),  # type: ignore[arg-type]
    ],
)
def test_a_handler_that_returns_nonsense_dead_letters_its_message(nonsense: Any, said: str) -> None:
    theirs = module(HANDLER=IntentHandler("REFUND", lambda _message, _band: nonsense))
    story = planned("REFUND", 0.9, playbook(modules=[theirs]))
    letter = story.last(MessageDeadLettered)
    assert letter.category == "handler_failed"
    assert letter.error.startswith("PlanError: ")
    assert said in letter.error


def test_a_handler_that_changes_what_it_was_given_changes_no_state() -> None:
    def plan(received: MessageReceived, _band: Band) -> Plan:
        received.entities.clear()
        return Plan(("notify_sales",), "x")

    theirs = module(HANDLER=IntentHandler("REFUND", plan))
    story = planned("REFUND", 0.9, playbook(modules=[theirs]), entities=PRODUCT)
    assert story.history[0].event == msgspec.structs.replace(story.last(MessageReceived), entities=PRODUCT)


def test_what_a_handler_says_can_be_stored_anywhere() -> None:
    theirs = module(HANDLER=IntentHandler("REFUND", lambda _message, _band: Plan((), "a\0b\ud800")))
    assert (
        planned("REFUND", 0.9, playbook(modules=[theirs])).last(ActionsPlanned).response == "a\ufffdb\ufffd"
    )
