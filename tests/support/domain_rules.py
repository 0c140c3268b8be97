"""A playbook for tests: the actions' own specs, every intent, and targets of the classes a test asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from msgspec.structs import replace

from actors.executors.registry import discover as discover_executors
from domain.actions import ActionSpec
from domain.events import Idempotency
from domain.intents.registry import discover
from domain.playbook import Playbook, Route
from domain.retry import RetryPolicy
from domain.tenants import Tenants

TENANTS = Tenants.of({"acme": ["acme-foods", "acme-deli"], "globex": ["globex-bank"]})
#: The same, with dead letters that the later messages of their lead wait behind.
PARKING = Tenants({name: replace(business, parks=True) for name, business in TENANTS.businesses.items()})


def action_specs() -> dict[str, ActionSpec]:
    """Every action by name, from its own file in `actors/executors/`."""
    return {name: executor.spec for name, executor in discover_executors().items()}


#: What an action's targets are: the class of the one, or the classes of several in order.
Classes = Idempotency | tuple[Idempotency, ...]


def routes_of(targets: Mapping[str, Classes]) -> Mapping[str, tuple[Route, ...]]:
    """`action` or `action@business` → its routes: to `<action>-target`, or of several to
    `<action>-target.a`, `.b` and so on, each by its letter."""
    return {of: tuple(_routes(of, classes)) for of, classes in targets.items()}


def _routes(of: str, classes: Classes) -> Iterator[Route]:
    action, at, business = of.partition("@")
    if isinstance(classes, str):
        yield Route(f"{action}-target{at}{business}", classes)
        return
    for name, idempotency in zip("abcdefgh", classes, strict=False):
        yield Route(f"{action}-target.{name}{at}{business}", idempotency, name)


def playbook(
    targets: Mapping[str, Any] | None = None,
    *,
    modules: Iterable[ModuleType] = (),
    retry: RetryPolicy | None = None,
    actions: Mapping[str, ActionSpec] | None = None,
    parks: bool = False,
) -> Playbook:
    """Rules in which `targets` (action → `Classes`) go out, as `routes_of` says."""
    routes = routes_of(targets or {})

    def route(business_id: str, action: str) -> tuple[Route, ...]:
        return routes.get(f"{action}@{business_id}") or routes.get(action, ())

    return Playbook(
        tenants=PARKING if parks else TENANTS,
        handlers=discover(modules),
        actions=action_specs() if actions is None else actions,
        route=route,
        retry=retry or RetryPolicy(),
    )
