"""From the settings of a target to the target itself, each kind by its function. Nothing is connected here.

A kind is imported when it is made: what its libraries need to be read is a second of every command otherwise.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import target_settings as ts
from actors.targets.guarded import Guarded
from actors.targets.module import Given
from actors.targets.scripted import ScriptedTarget
from actors.targets.secret import Secret
from actors.targets.templates import DataTemplate, Template
from domain.errors import SettingsError
from domain.ports import Target

if TYPE_CHECKING:
    from actors.targets.email import Letter
    from actors.targets.http import Http
    from actors.targets.rest import AskTemplate


def make_target(settings: ts.Target) -> Target:
    """The target that a `[targets.…]` table describes. Raises `SettingsError` for what cannot be one.

    A secret that cannot be read is no such thing: its target is made, and says so at each call.
    """
    try:
        return _MAKERS[type(settings)](settings)
    except ValueError as error:
        raise SettingsError(f"a target of kind {_kind(settings)}: {error}") from None


def _scripted(settings: ts.Scripted) -> Target:
    return ScriptedTarget(
        settings.idempotency,
        settings.script,
        cycle=settings.repeat == "cycle",
        delay=settings.delay_ms / 1000,
        timeout=settings.timeout_seconds,
        ledger=Path(settings.ledger) if settings.ledger else None,
    )


def _webhook(settings: ts.Webhook) -> Target:
    from actors.targets.webhook import WebhookTarget

    secrets = [_secret(secret) for secret in settings.secrets]
    return Guarded(WebhookTarget(_http(settings), settings.url, secrets), secrets)


def _rest(settings: ts.Rest) -> Target:
    from actors.targets.rest import AskTemplate, RestTarget

    secrets = _secrets(settings.secrets)
    headers = {name: Template(text) for name, text in settings.headers.items()}
    create = AskTemplate(settings.method, Template(settings.url), headers, _data(settings.body))
    undo = None
    if settings.undo is not None:
        asked = settings.undo
        undo = AskTemplate(asked.method, Template(asked.url), headers, _data(asked.body))
    _check_names(create, undo, settings)
    target = RestTarget(
        _http(settings),
        create,
        undo,
        remote=settings.remote,
        secrets=secrets,
        idempotency=settings.idempotency,
    )
    return Guarded(target, list(secrets.values()))


def _check_names(create: AskTemplate, undo: AskTemplate | None, settings: ts.Rest) -> None:
    known = {f"secret.{name}" for name in settings.secrets}
    kept = {f"remote.{name}" for name in settings.remote}
    asked = create.names | (undo.names if undo else frozenset())
    for name in sorted(asked):
        if name.startswith("secret.") and name not in known:
            raise ValueError(f"${{{name}}} is none of its secrets")
        if name.startswith("remote.") and (name in create.names or name not in kept):
            raise ValueError(f"${{{name}}} is for the undo alone, and a name of `remote`")


def _slack(settings: ts.Slack) -> Target:
    from actors.targets.slack import SlackMessage, SlackTarget

    url = _secret(settings.url)
    message = SlackMessage(Template(settings.text), _data(settings.blocks))
    correction = SlackMessage(Template(settings.undo_text), _data(settings.undo_blocks))
    return Guarded(SlackTarget(_http(settings), url, message, correction), [url])


def _email(settings: ts.Email) -> Target:
    from actors.targets.email import EmailTarget, Letters, SmtpServer

    password = _secret(settings.password) if settings.password else None
    server = SmtpServer(
        settings.host,
        settings.port,
        settings.tls,
        _tls(settings),
        settings.timeout_seconds,
        settings.connect_timeout_seconds,
        (settings.user, password) if settings.user and password else None,
    )
    first = _letter(settings.subject, settings.text, settings.html)
    correction = _letter(settings.undo_subject, settings.undo_text, settings.undo_html)
    letters = Letters(settings.sender, settings.to, first, correction)
    return Guarded(EmailTarget(server, letters), [password] if password else [])


def _letter(subject: str, text: str, html: str | None) -> Letter:
    from actors.targets.email import Letter

    return Letter(Template(subject), Template(text), Template(html) if html is not None else None)


def _module(settings: ts.Module) -> Target:
    secrets = _secrets(settings.secrets)
    given = Given(settings.options, secrets, settings.timeout_seconds, settings.connect_timeout_seconds)
    try:
        target: Target = settings.found()(given)
    except SettingsError:
        raise
    except Exception as error:  # a user's class may raise anything while it is made
        raise SettingsError(f"class {settings.class_} cannot be made: {error}") from error
    return Guarded(target, list(secrets.values()))


def _http(settings: ts.Webhook | ts.Rest | ts.Slack) -> Http:
    from actors.targets.http import Http

    keep = settings.idempotency == "keyed"
    return Http(settings.timeout_seconds, settings.connect_timeout_seconds, _tls(settings), keep=keep)


def _tls(settings: ts.Webhook | ts.Rest | ts.Slack | ts.Email) -> ssl.SSLContext:
    from actors.targets.http import http_tls_context, tls_context

    made = tls_context if isinstance(settings, ts.Email) else http_tls_context
    try:
        return made(settings.ca_file)
    except OSError as error:
        raise ValueError(f"ca_file {settings.ca_file}: {error.strerror or error}") from None


def _data(shape: Any) -> DataTemplate | None:
    return DataTemplate(shape) if shape is not None else None


def _secret(settings: ts.Secret) -> Secret:
    return Secret(env=settings.env, file=settings.file)


def _secrets(settings: Mapping[str, ts.Secret]) -> dict[str, Secret]:
    return {name: _secret(secret) for name, secret in settings.items()}


def _kind(settings: ts.Target) -> str:
    return str(settings.__struct_config__.tag)


_MAKERS: Mapping[type, Callable[[Any], Target]] = {
    ts.Scripted: _scripted,
    ts.Webhook: _webhook,
    ts.Rest: _rest,
    ts.Slack: _slack,
    ts.Email: _email,
    ts.Module: _module,
}
