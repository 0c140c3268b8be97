"""What `doctor` looks at of the targets: their secrets, where they are, the code of the user's own. None is called."""
# ruff: noqa: PLC0415  # what makes targets is half a second of every command that is not this one

from __future__ import annotations

import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import target_settings as ts
import wiring
from actors.executors import registry as executors
from actors.ownership import owner_of
from actors.targets.secret import Secret, UnreadableSecretError
from cli.finding import Finding
from domain.errors import SettingsError
from settings import Settings

if TYPE_CHECKING:
    from actors.targets.knock import Door, Knock

CERTIFICATE_ENDS_SOON = timedelta(days=14)
_AT_ONCE = 16


def look_at_targets(settings: Settings) -> Iterator[Finding]:
    """Each target by its breaker's name; each host is knocked at once, however many targets it has."""
    named = [(action, name, target) for _, action, name, target in wiring.named_targets(settings)]
    if not named:
        return
    yield from _actions(settings, [(action, name) for action, name, _ in named])
    seen_from_here = owner_of(settings.data) is None
    doors = {name: list(_doors(target)) for _, name, target in named}
    knocks = _knocked({door for several in doors.values() for door in several})
    for _, name, target in named:
        found = [*_made(name, target), *_secrets(name, target, seen_from_here=seen_from_here)]
        found += [one for door in doors[name] for one in _reached(name, door, knocks[door])]
        yield from found
        if not found:
            where = ", ".join(f"{door.host}:{door.port}" for door in doors[name])
            said = (
                f"at {where}" if where else "calls nobody" if _kind(target) == "scripted" else "its own code"
            )
            yield Finding("target", "good", f"{name}: {_kind(target)}, {said}")


def _actions(settings: Settings, named: list[tuple[str, str]]) -> Iterator[Finding]:
    try:
        known = executors.discover(wiring.import_modules(settings))
    except SettingsError:
        return  # the settings' own look says it
    for action, name in named:
        if action not in known:
            mend = f"name one of {', '.join(sorted(known))}; the runner does not start with this"
            yield Finding("target", "bad", f"{name}: there is no action {action}", mend)


def _made(name: str, target: ts.Target) -> Iterator[Finding]:
    """What the settings alone can be wrong in. A class of the user's own is found, and not made: it may do things."""
    from target_wiring import make_target

    try:
        if isinstance(target, ts.Module):
            target.found()
        else:
            make_target(target)
    except SettingsError as error:
        yield Finding(
            "target", "bad", f"{name}: {error}", "mend its table; the runner does not start with this"
        )


def _secrets(name: str, target: ts.Target, *, seen_from_here: bool) -> Iterator[Finding]:
    for asked in secrets_of(target):
        trouble = _trouble_with(target, asked)
        if trouble and asked.env is not None and not seen_from_here:
            mend = "the runner has its own variables: `leadline breakers` shows whether this one is missing there"
            yield Finding("secret", "warning", f"{name}: {trouble}, as seen from this shell", mend)
        elif trouble:
            mend = "its calls wait until it is there: set the variable and start again, or mend the file"
            yield Finding("secret", "bad", f"{name}: {trouble}", mend)
        elif asked.file is not None and Path(asked.file).stat().st_mode & stat.S_IROTH:
            mend = f"`chmod 640 {asked.file}`, owned by the runner's account or its group"
            yield Finding("secret", "warning", f"{name}: everybody may read the file {asked.file}", mend)


def secrets_of(target: ts.Target) -> Iterator[ts.Secret]:
    """Every secret that a target's settings name."""
    match target:
        case ts.Webhook(secrets=several):
            yield from several
        case ts.Rest(secrets=by_name) | ts.Module(secrets=by_name):
            yield from by_name.values()
        case ts.Slack(url=url):
            yield url
        case ts.Email(password=password) if password is not None:
            yield password


def _trouble_with(target: ts.Target, asked: ts.Secret) -> str:
    from actors.targets.guarded import Ended
    from actors.targets.webhook import signer

    secret = Secret(env=asked.env, file=asked.file)
    try:
        text = secret.text()
        if isinstance(target, ts.Webhook):
            signer(secret)
    except UnreadableSecretError as error:
        return str(error)
    except Ended as ended:
        return str(getattr(ended.outcome, "error", ""))
    if isinstance(target, ts.Slack) and _door_of(text, None) is None:
        return f"{secret!r} holds no url"
    return ""


def _doors(target: ts.Target) -> Iterator[Door]:
    from actors.targets.knock import Door

    urls: list[str] = []
    match target:
        case ts.Webhook(url=url):
            urls = [url]
        case ts.Rest(url=url, undo=undo):
            urls = [url, *([undo.url] if undo is not None else [])]
        case ts.Slack(url=secret):
            try:
                urls = [Secret(env=secret.env, file=secret.file).text()]
            except UnreadableSecretError:
                return  # said of the secret
        case ts.Email():
            yield Door(target.host, target.port, target.tls, target.ca_file)
    ca_file = target.ca_file if isinstance(target, ts.Webhook | ts.Rest | ts.Slack) else None
    yield from dict.fromkeys(door for url in urls if (door := _door_of(url, ca_file)) is not None)


def _door_of(url: str, ca_file: str | None) -> Door | None:
    from actors.targets.knock import Door

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return None
    safe = parts.scheme == "https"
    return Door(
        parts.hostname, port or (443 if safe else 80), "tls" if safe else "none", ca_file if safe else None
    )


def _knocked(doors: set[Door]) -> dict[Door, Knock]:
    from actors.targets.knock import knock

    ordered = list(doors)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(ordered, pool.map(knock, ordered), strict=True))


def _reached(name: str, door: Door, came: Knock) -> Iterator[Finding]:
    where = f"{name}: {door.host}:{door.port}"
    if came.trouble:
        mend = "see that it runs, and that this machine may reach it; its calls are tried again, then fail"
        yield Finding("target", "bad", f"{where}: {came.trouble}", mend)
    elif door.tls == "none" and not _is_loopback(door.host):
        mend = "use https, or tls for mail: secrets and messages go over the network as text"
        yield Finding("target", "warning", f"{where}: not encrypted", mend)
    elif came.ends is not None and came.ends - datetime.now(UTC) < CERTIFICATE_ENDS_SOON:
        mend = "tell its owner: after that, no call gets through"
        yield Finding(
            "target", "warning", f"{where}: its certificate ends on {came.ends:%Y-%m-%d %H:%M} UTC", mend
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _kind(target: ts.Target) -> str:
    return str(target.__struct_config__.tag)
