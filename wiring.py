"""What the settings choose, in the parts' own terms. Data in, data out: nothing is started or opened here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType

from actors.breaker import TargetParts
from actors.directory import LeadLimits
from actors.executors.executor import Executor
from actors.guardian import Guardian
from actors.intake import IntakeSettings
from actors.performer import performer
from actors.pool import Dispatcher, Runnable
from actors.pull import PullSettings
from actors.stream import OutLimits
from domain.errors import SettingsError
from domain.intents import registry as intents
from domain.playbook import Playbook, Route
from domain.ports import EventLog, Target
from outbox.relay import RelaySettings
from outbox.run import OutboxParts
from settings import Settings
from target_settings import Target as TargetSettings
from target_settings import own_module


def events_path(settings: Settings) -> Path:
    return settings.data / "events.db"


def views_path(settings: Settings) -> Path:
    return settings.data / "views.db"


def outbox_path(settings: Settings) -> Path:
    return settings.data / "outbox.db"


def out_limits(settings: Settings) -> OutLimits:
    return OutLimits(settings.outbox.max_bytes, timedelta(hours=settings.outbox.max_age_hours))


def outbox_parts(settings: Settings, open_log: Callable[[], EventLog]) -> OutboxParts:
    """What the outbox needs, wherever it runs."""
    outbox = settings.outbox
    return OutboxParts(
        open_log,
        outbox_path(settings),
        views_path(settings),
        settings.nats.url,
        out_limits(settings),
        RelaySettings(outbox.results, outbox.replies, linger=outbox.linger_ms / 1000),
        outbox.service,
    )


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


def _import(name: str) -> ModuleType:
    try:
        return own_module(name)
    except SettingsError as error:
        raise SettingsError(f"modules: {error}") from error


def _router(settings: Settings) -> Callable[[str, str], tuple[Route, ...]]:
    routes = {
        (business_id, action): tuple(
            Route(_full_name(business_id, action, target), target.idempotency, target.name or "")
            for target in several
        )
        for business_id, action, several in _target_tables(settings)
    }

    def route(business_id: str, action: str) -> tuple[Route, ...]:
        own = routes.get((business_id, action))
        return own if own is not None else routes.get(("", action), ())

    return route


def named_targets(settings: Settings) -> Iterator[tuple[str, str, str, TargetSettings]]:
    """Business ("" for all), action, name of the breaker, and the target."""
    for business_id, action, several in _target_tables(settings):
        for target in several:
            yield business_id, action, _full_name(business_id, action, target), target


def _target_tables(settings: Settings) -> Iterator[tuple[str, str, tuple[TargetSettings, ...]]]:
    """Business ("" for all), action, and its targets in order."""
    for business_id, table in (
        ("", settings.targets),
        *((b, own.targets) for b, own in settings.businesses.items()),
    ):
        for action, several in table.items():
            yield business_id, action, several


def _full_name(business_id: str, action: str, target: TargetSettings) -> str:
    """`<action>[.<its own>][@<business>]`: the target's name in events, logs and views, and its breaker's."""
    name = f"{action}.{target.name}" if target.name else action
    return f"{name}@{business_id}" if business_id else name


def targets(
    settings: Settings,
    known: Mapping[str, Executor],
    target_of: Callable[[TargetSettings], Target],
) -> Iterable[tuple[str, TargetParts]]:
    """Each target by its name, which is also its breaker's: per action, or per action and business."""
    for _, action, name, target in named_targets(settings):
        if action not in known:
            raise SettingsError(f"targets.{action}: there is no such action ({', '.join(sorted(known))})")
        yield (
            name,
            TargetParts(
                name,
                performer(known[action], _made(name, target, target_of)),
                settings.breaker.policy(),
                target.workers,
                target.timeout_seconds,
                once=target.idempotency == "once",
                calls_per_second=target.calls_per_second,
                longest_pause=settings.retry.retry_after_cap_seconds,
            ),
        )


def _made(name: str, target: TargetSettings, target_of: Callable[[TargetSettings], Target]) -> Target:
    try:
        return target_of(target)
    except SettingsError as error:
        raise SettingsError(f"targets.{name}: {error}") from error


def limits(settings: Settings) -> LeadLimits:
    return LeadLimits(
        max_living=settings.leads.max_living,
        idle_sweeps=2,
        restart_delays=settings.leads.restart_delays_seconds,
    )


def intake_settings(settings: Settings) -> IntakeSettings:
    return IntakeSettings(
        max_bytes=settings.stream.max_bytes,
        out=out_limits(settings) if settings.outbox.on else None,
        max_in_hand=settings.intake.max_in_hand,
        pull=PullSettings(batch=settings.intake.pull_batch),
        url=settings.nats.url,
        checkpoint_every=settings.intake.checkpoint_seconds,
        keep=timedelta(hours=settings.stream.keep_hours),
    )


def guardian(
    settings: Settings, dispatcher: Dispatcher, give_up: Callable[[Runnable, float], object]
) -> Guardian:
    """Who watches the threads; `give_up` is told of a lead whose code does not come back."""
    busy, longest = settings.pool.busy_warning_seconds, settings.leads.give_up_seconds
    return Guardian(dispatcher, busy, longest=longest, give_up=give_up)
