"""`doctor`: looks at what is really there, each part in a module of its own, and says what to mend."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
import typer
from rich.text import Text

from actors import nats_server
from actors.connection import shown
from actors.executors import registry as executors
from cli import health, options, runner_health, stream_health, target_health
from cli.finding import Finding
from cli.output import console, printable, show_json
from cli.shell import FAILED, settings_of
from domain.errors import SettingsError
from domain.intents import registry as intents
from domain.messages import MAX_MESSAGE_BYTES
from settings import Settings
from target_settings import own_module

MONITORING_PORT = 8222
CLOCKS_APART = timedelta(seconds=10)
#: JetStream's per-message settings and direct answers that the stream and the intake rely on.
OLDEST_SERVER = (2, 10)


def doctor(ctx: typer.Context, *, as_json: options.Json = False) -> None:
    """Check settings, targets, data folder, runner, NATS and its streams; say what to mend. 1 if something is bad."""
    settings = settings_of(ctx)
    findings = list(examine(settings))
    if as_json:
        show_json(findings)
    else:
        show(findings)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(FAILED)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every look, each on its own: one that cannot be had does not hide the next."""
    looks: dict[str, Callable[[Settings], Iterable[Finding]]] = {
        "settings": look_at_settings,
        "target": target_health.look_at_targets,
        "store": health.look_at_data,
        "runner": runner_health.look_at_runner,
        "events": health.look_at_events,
        "views": health.look_at_views,
        "outbox": health.look_at_outbox,
        "nats": look_at_server,
    }
    if nats_server.read_greeting(settings.nats.url) is not None:  # each would wait for one that is not there
        looks |= {"stream": stream_health.look_at_streams, "clock": look_at_clock}
    for subject, look in looks.items():
        try:
            yield from look(settings)
        except Exception as error:  # whatever one look meets, the others are had
            mend = "`leadline events show`, if it is the store's; a backup that is sound: `leadline restore`"
            if subject == "views":
                mend = "`leadline rebuild` makes them anew; no event is in them"
            yield Finding(subject, "bad", f"cannot be looked at: {error}", mend)


def look_at_settings(settings: Settings) -> Iterator[Finding]:
    businesses = settings.tenants().businesses
    if businesses:
        yield Finding("settings", "good", f"businesses: {len(businesses)}, tenants: {len(settings.tenants_)}")
    else:
        mend = "name them in leadline.toml: [tenants.acme] businesses = [...]"
        yield Finding("settings", "warning", "no business: every message will be a dead letter", mend)
    for module in settings.modules:
        try:
            own = [own_module(module)]
            executors.discover(own)
            intents.discover(own)
        except SettingsError as error:
            mend = "mend the module, or take it out of `modules`"
            yield Finding("settings", "bad", f"module {str(error).removeprefix('modules: ')}", mend)


def look_at_server(settings: Settings) -> Iterator[Finding]:
    url = shown(settings.nats.url)
    greeting = nats_server.read_greeting(settings.nats.url)
    if greeting is None:
        own = next(_own_addresses(settings, "nats"), None)
        started = own is not None and nats_server.read_greeting(own) is not None
        mend = f"`up` over this data folder has one at {own}: name it with --nats"
        if not started:
            mend = "start one with `leadline up`, or name another with --nats"
        yield Finding("nats", "bad", f"no NATS server answers at {url}", mend)
        return
    version = str(greeting.get("version", "0"))
    old = tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST_SERVER
    yield Finding(
        "nats", "bad" if old else "good", f"nats-server {version} at {url}", "update it" if old else ""
    )
    if not greeting.get("jetstream"):
        mend = "start it with `jetstream {}` (see nats.conf)"
        yield Finding("nats", "bad", "the server has no JetStream", mend)
    payload = int(greeting.get("max_payload", 0))
    small = payload < MAX_MESSAGE_BYTES + 64 * 1024
    mend = "set `max_payload: 2MB`: larger messages are then kept as dead letters"
    yield Finding(
        "nats", "bad" if small else "good", f"messages of up to {payload:,} bytes", mend if small else ""
    )
    yield look_at_sync(settings, str(greeting.get("server_id", "")))


def look_at_sync(settings: Settings, server_id: str) -> Finding:
    """Whether a confirmed message is on disk: only the monitoring port says it."""
    for address in monitoring_addresses(settings):
        varz = read_json(f"{address}/varz")
        if varz is None or varz.get("server_id") != server_id:
            continue
        config: dict[str, Any] = varz.get("jetstream", {}).get("config", {})
        if config.get("sync_always"):
            return Finding(
                "nats", "good", "a message is on disk before it is confirmed (sync_interval: always)"
            )
        every = config.get("sync_interval", 0) / 1e9
        found = f"confirmed messages are on disk up to {every:g} s later; a power cut loses them"
        return Finding(
            "nats", "bad", found, "set `sync_interval: always` in its jetstream block (see nats.conf)"
        )
    mend = f"open its monitoring on loopback (`http: 127.0.0.1:{MONITORING_PORT}`) or say where it is (nats.monitoring)"
    return Finding(
        "nats", "warning", "cannot see whether it syncs before it confirms: no monitoring port", mend
    )


def look_at_clock(settings: Settings) -> Iterator[Finding]:
    """The clock of this machine beside the server's, where it says what time it is."""
    told = stream_health.server_time(settings) or _monitored_time(settings)
    if told is None:
        return
    apart = abs(datetime.now(UTC) - told)
    if apart > CLOCKS_APART:
        found = f"this clock and the NATS server's are {apart.total_seconds():,.0f} s apart"
        yield Finding(
            "clock", "warning", found, "set both by NTP: waits, ages and keys' lives are counted by them"
        )


def _monitored_time(settings: Settings) -> datetime | None:
    for address in monitoring_addresses(settings):
        told = (read_json(f"{address}/varz") or {}).get("now")
        if told is not None:
            return msgspec.convert(told, datetime)
    return None


def monitoring_addresses(settings: Settings) -> Iterator[str]:
    """Of the server that `up` started over this data folder, and the one that the settings name, or the usual one."""
    yield from _own_addresses(settings, "monitoring")
    host = urlsplit(settings.nats.url).hostname or "127.0.0.1"
    yield settings.nats.monitoring.rstrip("/") or f"http://{host}:{MONITORING_PORT}"


def _own_addresses(settings: Settings, kind: str) -> Iterator[str]:
    """Where the server listens that `up` has started over this data folder, for clients (`nats`) or `monitoring`."""
    for file in sorted((settings.data / "jetstream").glob("nats-server_*.ports")):
        try:
            yield from json.loads(file.read_bytes()).get(kind, [])
        except (OSError, ValueError):
            continue  # half written, or just gone: its server is not the one that is asked for


def read_json(url: str) -> dict[str, Any] | None:
    """The JSON object at a monitoring address, None where there is none."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310  # http, from our own settings
            document: dict[str, Any] = json.load(answer)
            return document
    except (OSError, ValueError):
        return None


def show(findings: Iterable[Finding]) -> None:
    """One line a finding, and what to do below it."""
    marks = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}
    out = console()
    for finding in findings:
        mark, style = marks[finding.state]
        line = Text.assemble((mark, style), f" {finding.subject:<9}", printable(finding.found))
        out.print(line, soft_wrap=True)
        if finding.mend:
            out.print(Text(f"            {finding.mend}", style="bold"), soft_wrap=True)
