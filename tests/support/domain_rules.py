"""A playbook for tests: the actions' own specs, every intent, and targets of the classes a test asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType

from actors.executors.registry import discover as discover_executors
from domain.actions import ActionSpec
from domain.events import Idempotency
from domain.intents.registry import discover
from domain.playbook import Playbook, Route
from domain.retry import RetryPolicy
from domain.tenants import Tenants

TENANTS = Tenants.of({"acme": ["acme-foods", "acme-deli"], "globex": ["globex-bank"]})


def action_specs() -> dict[str, ActionSpec]:
    """Every action by name, from its own file in `actors/executors/`."""
    return {name: executor.spec for name, executor in discover_executors().items()}


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
