"""What the settings choose, in the parts' own terms. Data in, data out: nothing is started or opened here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from types import ModuleType

from actors.breaker import TargetParts
from actors.directory import LeadLimits
from actors.executors.executor import Executor
from actors.intake import IntakeSettings
from actors.pull import PullSettings
from actors.scripted import ScriptedTarget
from actors.targets import performer
from domain.errors import SettingsError
from domain.intents import registry as intents
from domain.playbook import Playbook, Route
from domain.ports import Target
from settings import Settings
from settings import Target as TargetSettings


def events_path(settings: Settings) -> Path:
    return settings.data / "events.db"


def views_path(settings: Settings) -> Path:
    return settings.data / "views.db"


def import_modules(settings: Settings) -> list[ModuleType]:
    """The user's own modules. Raises `SettingsError` for one that cannot be imported."""
    return [_import(name) for name in settings.modules]


def playbook(settings: Settings, modules: Sequence[ModuleType], known: Mapping[str, Executor]) -> Playbook:
    """The domain's rules as the settings choose them."""
    return Playbook(
        tenants=settings.tenants(),
        handlers=intents.discover(modules),
        actions={name: executor.spec for name, executor in known.items()},
        route=_router(settings),
        retry=settings.retry.policy(),
        breaker_wait=timedelta(seconds=settings.breaker.max_wait_seconds),
    )


def make_target(settings: TargetSettings) -> Target:
    """The target that a `[targets.…]` table describes."""
    return ScriptedTarget(
        settings.idempotency,
        settings.script,
        cycle=settings.repeat == "cycle",
        delay=settings.delay_ms / 1000,
        timeout=settings.timeout_seconds,
        ledger=Path(settings.ledger) if settings.ledger else None,
    )


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise SettingsError(f"modules: {name} cannot be imported: {error}") from error


def _router(settings: Settings) -> Callable[[str, str], Route | None]:
    routes: dict[tuple[str, str], Route] = {}
    for business_id, business in settings.businesses.items():
        for action, target in business.targets.items():
            routes[business_id, action] = Route(f"{action}@{business_id}", target.idempotency)
    common = {action: Route(action, target.idempotency) for action, target in settings.targets.items()}

    def route(business_id: str, action: str) -> Route | None:
        return routes.get((business_id, action)) or common.get(action)

    return route


def targets(
    settings: Settings,
    known: Mapping[str, Executor],
    target_of: Callable[[TargetSettings], Target],
) -> Iterable[tuple[str, TargetParts]]:
    """Each target by its name, which is also its breaker's: per action, or per action and business."""
    named = [(action, action, target) for action, target in settings.targets.items()]
    for business_id, business in settings.businesses.items():
        named += [(f"{a}@{business_id}", a, target) for a, target in business.targets.items()]
    for name, action, target in named:
        if action not in known:
            raise SettingsError(f"targets.{action}: there is no such action ({', '.join(sorted(known))})")
        yield (
            name,
            TargetParts(
                name,
                performer(known[action], target_of(target)),
                settings.breaker.policy(),
                target.workers,
                target.timeout_seconds,
                once=target.idempotency == "once",
            ),
        )


def limits(settings: Settings) -> LeadLimits:
    return LeadLimits(
        max_living=settings.leads.max_living,
        idle_sweeps=2,
        restart_delays=settings.leads.restart_delays_seconds,
    )


def intake_settings(settings: Settings) -> IntakeSettings:
    return IntakeSettings(
        max_bytes=settings.stream.max_bytes,
        max_in_hand=settings.intake.max_in_hand,
        pull=PullSettings(batch=settings.intake.pull_batch),
        url=settings.nats.url,
        checkpoint_every=settings.intake.checkpoint_seconds,
        keep=timedelta(hours=settings.stream.keep_hours),
    )
