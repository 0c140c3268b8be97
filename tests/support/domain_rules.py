"""A playbook for tests: the actions' own specs, every intent, and targets of the classes a test asks for."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib import import_module
from types import ModuleType

import actors.executors
from domain.actions import ActionSpec
from domain.events import Idempotency
from domain.intents.registry import discover
from domain.playbook import Playbook, Route
from domain.retry import RetryPolicy
from domain.tenants import Tenants

TENANTS = Tenants.of({"acme": ["acme-foods", "acme-deli"], "globex": ["globex-bank"]})

#: DESIGN's table, for as long as an action's own file does not stand.
_DESIGN = (
    ActionSpec(
        "notify_sales",
        "sales_notification",
        "Sales",
        "team",
        "sales",
        timedelta(hours=24),
        "normal",
        {"COMPLAINT": "high"},
    ),
    ActionSpec(
        "create_order",
        "order_processing",
        "Order",
        "team",
        "orders",
        timedelta(hours=4),
        "high",
        never_repeat_once=True,
    ),
    ActionSpec(
        "create_support_ticket", "support_ticket", "Ticket", "team", "support", timedelta(hours=2), "high"
    ),
    ActionSpec(
        "flag_for_review",
        "lead_review",
        "Review",
        "role",
        "reviewer",
        timedelta(hours=24),
        "low",
        flags_lead=True,
    ),
)


def action_specs() -> dict[str, ActionSpec]:
    """Every action by name, from its own file in `actors/executors/`."""
    specs = {spec.name: spec for spec in _DESIGN}
    for info in pkgutil.iter_modules(actors.executors.__path__):
        module = import_module(f"actors.executors.{info.name}")
        spec = getattr(module, "SPEC", None)
        if isinstance(spec, ActionSpec):
            specs[spec.name] = spec
    return specs


def playbook(
    targets: Mapping[str, Idempotency] | None = None,
    *,
    modules: Iterable[ModuleType] = (),
    retry: RetryPolicy | None = None,
    actions: Mapping[str, ActionSpec] | None = None,
) -> Playbook:
    """Rules in which `targets` (action → idempotency class) go out, each to the target `<action>-target`."""
    classes = targets or {}

    def route(_business_id: str, action: str) -> Route | None:
        return Route(f"{action}-target", classes[action]) if action in classes else None

    return Playbook(
        tenants=TENANTS,
        handlers=discover(modules),
        actions=action_specs() if actions is None else actions,
        route=route,
        retry=retry or RetryPolicy(),
    )
