"""The rules that settings choose: handlers, actions, routes, retries. Handed to `decide`, never stored.

What a decision took from here stands in its events, so that a replay needs no settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

from msgspec import Struct

from domain.actions import ActionSpec
from domain.events import ActionsPlanned, Event, Idempotency, IntentDetected, MessageReceived, PlannedAction
from domain.intents.handler import Band, IntentHandler, Plan
from domain.intents.registry import UNKNOWN
from domain.retry import RetryPolicy
from domain.tenants import Tenants, Thresholds


class Route(Struct, frozen=True):
    """Where an action of a business goes, and what may be assumed of that target."""

    target: str
    idempotency: Idempotency


class Playbook(Struct, frozen=True):
    """Everything `decide` and `follow` need to know that is not in the events."""

    tenants: Tenants
    handlers: Mapping[str, IntentHandler]
    actions: Mapping[str, ActionSpec]
    #: (business id, action) → its route; None where the action is the task alone.
    route: Callable[[str, str], Route | None]
    retry: RetryPolicy = RetryPolicy()
    #: How long an action waits for an open breaker before it fails for good.
    breaker_wait: timedelta = timedelta(minutes=15)


class PlanError(Exception):
    """A handler's plan that cannot be carried out."""


def plan_message(
    playbook: Playbook, message: MessageReceived, key: str, held: Mapping[str, str], run: int
) -> tuple[Event, Event]:
    """`IntentDetected` and `ActionsPlanned` for a message whose keys begin with `key`.

    `held` gives the key of an earlier run for steps whose effect nobody could rule out. Raises whatever
    the handler raises, and `PlanError` for a plan that makes no sense.
    """
    handler, band = _handler_for(playbook, message)
    plan = handler.plan(message, band)
    _check(playbook, plan)
    suffix = f"#{run}" if run > 1 else ""
    steps = tuple(
        _step(playbook, message.business_id, n, action, key=key, suffix=suffix, held=held)
        for n, action in enumerate(plan.actions)
    )
    response = message.suggested_response or plan.response
    if plan.asks:
        response = f"{response} {plan.asks}"
    detected = IntentDetected(message.message_id, message.intent, handler.intent, message.confidence, band)
    return detected, ActionsPlanned(message.message_id, run, steps, plan.escalate, response)


def _handler_for(playbook: Playbook, message: MessageReceived) -> tuple[IntentHandler, Band]:
    business = playbook.tenants.find(message.business_id)
    thresholds = business.thresholds if business else Thresholds()
    handler = playbook.handlers.get(message.intent)
    if handler is None or message.confidence < thresholds.low:
        return playbook.handlers[UNKNOWN], "low"
    return handler, "high" if message.confidence >= thresholds.high else "medium"


def _check(playbook: Playbook, plan: object) -> None:
    if not isinstance(plan, Plan):
        raise PlanError(f"the handler gave {type(plan).__name__}, not a Plan")
    for action in plan.actions:
        if action not in playbook.actions:
            raise PlanError(f"the handler planned {action!r}, which no executor carries out")


def _step(
    playbook: Playbook,
    business_id: str,
    n: int,
    action: str,
    *,
    key: str,
    suffix: str,
    held: Mapping[str, str],
) -> PlannedAction:
    place = f"{n}.{action}"
    route = playbook.route(business_id, action)
    step_key = held.get(place, f"{key}/{place}{suffix}")
    if route is None:
        return PlannedAction(n, action, step_key)
    return PlannedAction(n, action, step_key, route.target, route.idempotency)
