"""The rules that settings choose: handlers, actions, routes, retries. Handed to `decide`, never stored.

What a decision took from here stands in its events, so that a replay needs no settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct

from domain.actions import ActionSpec
from domain.events import ActionsPlanned, Event, Idempotency, IntentDetected, MessageReceived, PlannedAction
from domain.intents.handler import Band, IntentHandler, Plan
from domain.intents.registry import UNKNOWN
from domain.messages import clean
from domain.retry import RetryPolicy
from domain.tenants import Tenants, Thresholds


class Route(Struct, frozen=True):
    """Where an action of a business goes, and what may be assumed of that target."""

    target: str
    idempotency: Idempotency
    #: What it is called among an action's several targets; empty for the one that has no name.
    name: str = ""


class Playbook(Struct, frozen=True):
    """Everything `decide` and `follow` need to know that is not in the events."""

    tenants: Tenants
    handlers: Mapping[str, IntentHandler]
    actions: Mapping[str, ActionSpec]
    #: (business id, action) → its routes, in order; none where the action is the task alone.
    route: Callable[[str, str], tuple[Route, ...]]
    retry: RetryPolicy = RetryPolicy()
    #: How long an action waits for an open breaker before it fails for good.
    breaker_wait: timedelta = timedelta(minutes=15)

    def spec_of(self, action: str) -> ActionSpec:
        """An action's spec; of one that the settings no longer know, a task for a reviewer."""
        return self.actions.get(action) or ActionSpec(
            action, action, action, "role", "reviewer", timedelta(hours=24), "normal"
        )


class RunKeys(Struct, frozen=True):
    """What the idempotency keys of one run of a message are made of."""

    #: `<business>/<lead token>/<message token>`, with `@<sequence>` in a later life of the id.
    base: str
    run: int = 1
    #: The run that the keys name: the last one before which something was compensated.
    key_run: int = 1
    #: `<n>.<action>` → key of an earlier run, for a step whose effect nobody could rule out.
    held: Mapping[str, str] = {}

    def of(self, n: int, action: str) -> str:
        """The key of a step."""
        place = f"{n}.{action}"
        suffix = f"#{self.key_run}" if self.key_run > 1 else ""
        return self.held.get(place) or f"{self.base}/{place}{suffix}"


class PlanError(Exception):
    """A handler's plan that cannot be carried out."""


def plan_message(playbook: Playbook, message: MessageReceived, keys: RunKeys) -> tuple[Event, Event]:
    """`IntentDetected` and `ActionsPlanned` for a message.

    Raises whatever the handler raises, and `PlanError` for a plan that makes no sense. The handler gets
    entities of its own: one that changes them changes no lead's state.
    """
    handler, band = _handler_for(playbook, message)
    given = msgspec.structs.replace(message, entities=dict(message.entities))
    plan = _checked(playbook, handler.plan(given, band))
    steps = _steps(playbook, message.business_id, plan.actions, keys)
    response = message.suggested_response or plan.response
    if plan.asks:
        response = f"{response} {plan.asks}"
    detected = IntentDetected(message.message_id, message.intent, handler.intent, message.confidence, band)
    return detected, ActionsPlanned(message.message_id, keys.run, steps, plan.escalate, clean(response))


def _handler_for(playbook: Playbook, message: MessageReceived) -> tuple[IntentHandler, Band]:
    business = playbook.tenants.find(message.business_id)
    thresholds = business.thresholds if business else Thresholds()
    handler = playbook.handlers.get(message.intent)
    if handler is None or message.confidence < thresholds.low:
        return playbook.handlers[UNKNOWN], "low"
    return handler, "high" if message.confidence >= thresholds.high else "medium"


def _checked(playbook: Playbook, plan: object) -> Plan:
    """A handler's plan with what its types promise, since its events must be readable for ever."""
    if not isinstance(plan, Plan):
        raise PlanError(f"the handler gave {type(plan).__name__}, not a Plan")
    if not _well_typed(plan):
        raise PlanError("the handler's plan has a wrong field: actions is a tuple of names, escalate a bool")
    for action in plan.actions:
        if action not in playbook.actions:
            raise PlanError(f"the handler planned {action!r}, which no executor carries out")
    return plan


def _well_typed(plan: Any) -> bool:
    """By hand, since it is done for every message: a conversion by msgspec takes five times as long."""
    actions: object = plan.actions
    texts = (plan.response, plan.asks, *(actions if type(actions) is tuple else (None,)))
    escalate: object = plan.escalate
    return type(escalate) is bool and all(type(text) is str for text in texts)


def _steps(
    playbook: Playbook, business_id: str, actions: tuple[str, ...], keys: RunKeys
) -> tuple[PlannedAction, ...]:
    """The plan's actions as steps: one for each target, and one for an action without any."""
    steps: list[PlannedAction] = []
    for action in actions:
        n = len(steps)
        routes = playbook.route(business_id, action)
        if not routes:
            steps.append(PlannedAction(n, action, keys.of(n, action)))
        elif len(routes) == 1:
            (route,) = routes
            steps.append(PlannedAction(n, action, keys.of(n, action), route.target, route.idempotency))
        else:
            steps += _parts(n, action, routes, keys)
    return tuple(steps)


def _parts(first: int, action: str, routes: tuple[Route, ...], keys: RunKeys) -> Iterator[PlannedAction]:
    for part, route in enumerate(routes):
        n = first + part
        key = keys.of(n, action)
        yield PlannedAction(
            n, action, key, route.target, route.idempotency, route.name, part=part, parts=len(routes)
        )
