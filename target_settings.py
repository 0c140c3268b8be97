"""The settings of targets: a table, or an array of tables, for each action, told apart by `kind`.

`settings.py` reads them; `target_wiring.py` makes targets of them. docs/targets.md has examples of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal, get_args
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from domain.errors import SettingsError
from domain.events import Idempotency

Name = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,40}$")]
Text = Annotated[str, Meta(min_length=1)]
Positive = Annotated[float, Meta(gt=0, le=3600)]
Rate = Annotated[float, Meta(ge=0.0001, le=1_000_000)]
Port = Annotated[int, Meta(ge=1, le=65535)]
ScriptedOutcome = Literal[
    "done",
    "fail",
    "fail_for_good",
    "throttle",
    "misconfigured",
    "switched_off",
    "unknown",
    "hang",
    "raise",
]


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the settings file's tables."""


class Secret(Part, frozen=True):
    """Where a secret is to be found: `{ env = "NAME" }` or `{ file = "path" }`. Never its text."""

    #: A variable of the process. Changed, it needs a restart.
    env: Text | None = None
    #: A file that holds nothing else. Changed, it is read again once the target has refused the old one.
    file: Text | None = None

    def __post_init__(self) -> None:
        if (self.env is None) == (self.file is None):
            raise ValueError('a secret is either { env = "NAME" } or { file = "path" }')


class _Target(Part, frozen=True, tag_field="kind", kw_only=True):
    #: Tells apart several targets of one action, and is part of its breaker's name.
    name: Name | None = None
    #: A whole call, from looking up the name to the answer's end; without an answer it ends as unknown.
    timeout_seconds: Positive = 10.0
    #: Calls to this target at once.
    workers: Annotated[int, Meta(ge=1, le=64)] = 4
    #: No more calls than this begin in a second.
    calls_per_second: Rate | None = None


class _Remote(_Target, frozen=True, kw_only=True):
    #: To connect, and for the handshake of TLS; at most this much of `timeout_seconds`.
    connect_timeout_seconds: Positive = 5.0


class _Checked(_Remote, frozen=True, kw_only=True):
    #: Certificates of authorities to trust instead of the usual ones.
    ca_file: Text | None = None


class Scripted(_Target, frozen=True, kw_only=True, tag="scripted"):
    """Answers as `script` says: for trying out and for tests."""

    #: What may be assumed of a repeated call: harmless (none), deduplicated by key (keyed), neither (once).
    idempotency: Idempotency = "keyed"
    #: Outcomes of the calls, in order.
    script: tuple[ScriptedOutcome, ...] = ("done",)
    #: After the script's end: its `last` outcome for ever, or the whole script again (`cycle`).
    repeat: Literal["last", "cycle"] = "last"
    #: How long it takes to answer.
    delay_ms: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    #: A file to which it writes a line for each call it takes, for tests to count effects.
    ledger: str | None = None

    def __post_init__(self) -> None:
        if not self.script:
            raise ValueError("script is empty")


class Webhook(_Checked, frozen=True, kw_only=True, tag="webhook"):
    """Posts signed events (Standard Webhooks)."""

    idempotency: ClassVar[Idempotency] = "keyed"
    url: Text
    #: `whsec_…`. Each signs, so that a receiver can change from one to the next while both stand here.
    secrets: Annotated[tuple[Secret, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        _check_url(self.url)


class RestUndo(Part, frozen=True):
    """The request that undoes what the create has made."""

    #: A template as the create's, with `${remote.…}` from its answer.
    url: Text
    method: Literal["DELETE", "PATCH", "POST", "PUT"] = "DELETE"
    #: A template; without one no body is sent.
    body: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_url(self.url)


class Rest(_Checked, frozen=True, kw_only=True, tag="rest"):
    """Creates by one request, undoes by another."""

    #: A template; what is put in is percent-encoded. The host is none.
    url: Text
    method: Literal["POST", "PUT"] = "POST"
    #: Templates, for both requests; `${secret.…}` is for here. `Idempotency-Key` is added.
    headers: dict[str, str] = {}
    #: A template: each of its texts is filled. Without one no body is sent.
    body: dict[str, Any] | None = None
    #: Name → where in the create's answer it stands (`data.id`): kept, shown with the task, for the undo.
    remote: dict[str, Text] = {}
    #: Without one a person has to undo by hand what this target made.
    undo: RestUndo | None = None
    #: Name → secret, in templates `${secret.<name>}`.
    secrets: dict[str, Secret] = {}
    #: keyed only if the other side does a repeated Idempotency-Key once, or upserts by an id of the template.
    idempotency: Literal["keyed", "once"] = "once"

    def __post_init__(self) -> None:
        _check_url(self.url)


class Slack(_Checked, frozen=True, kw_only=True, tag="slack"):
    """Writes to a channel by an incoming webhook."""

    idempotency: ClassVar[Idempotency] = "once"
    #: Slack takes one message a second.
    calls_per_second: Rate | None = 1.0
    #: The webhook's url: whoever knows it can write there.
    url: Secret
    #: Templates, for the message and for the one that corrects it.
    text: Text = "*${title}*\n${text}"
    undo_text: Text = "Please disregard: *${title}*\n${text}"
    #: Templates in the form of Block Kit, instead of one section with the text.
    blocks: tuple[dict[str, Any], ...] | None = None
    undo_blocks: tuple[dict[str, Any], ...] | None = None


class Email(_Checked, frozen=True, kw_only=True, tag="email"):
    """Hands in a mail by SMTP."""

    idempotency: ClassVar[Idempotency] = "once"
    host: Text
    port: Port = 587
    #: starttls: begun in plain text, refused where the server offers none; tls: from the first byte.
    tls: Literal["starttls", "tls", "none"] = "starttls"
    #: Without one there is no login.
    user: Text | None = None
    password: Secret | None = None
    #: Addresses alone, without names.
    sender: Text
    to: Annotated[tuple[Text, ...], Meta(min_length=1)]
    #: Templates, for the mail and for its correction, which is a reply to it. No HTML: text alone.
    subject: Text = "${title}"
    text: Text = "${title}\n\n${text}\n"
    html: Text | None = None
    undo_subject: Text = "Void: ${title}"
    undo_text: Text = "Please disregard: ${title}\n\n${text}\n"
    undo_html: Text | None = None

    def __post_init__(self) -> None:
        for address in (self.sender, *self.to):
            if (
                address.count("@") != 1
                or not address.isascii()
                or not address.isprintable()
                or " " in address
            ):
                raise ValueError(f"{address!r} is not an address like sales@example.com")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.tls == "none":
            raise ValueError("a login needs tls")


class Module(_Remote, frozen=True, kw_only=True, tag="module"):
    """A class of your own."""

    #: `module:Class`; made with `actors.targets.module.Given`.
    class_: Text = field(name="class")
    #: Handed to it as they are.
    options: dict[str, Any] = {}
    #: Name → secret.
    secrets: dict[str, Secret] = {}

    @property
    def idempotency(self) -> Idempotency:
        """The class says it."""
        said: Idempotency = self.found().idempotency
        return said

    def found(self) -> Any:
        """The class. Raises `SettingsError`."""
        module, _, name = self.class_.partition(":")
        try:
            found = getattr(own_module(module), name, None)
        except SettingsError as error:
            raise SettingsError(f"class {self.class_}: {error}") from error
        if not isinstance(found, type):
            raise SettingsError(f"class {self.class_}: {module} has no class {name!r}")
        if getattr(found, "idempotency", None) not in get_args(Idempotency):
            raise SettingsError(
                f"class {self.class_}: its idempotency is none of {', '.join(get_args(Idempotency))}"
            )
        return found


Target = Scripted | Webhook | Rest | Slack | Email | Module


def own_module(name: str) -> ModuleType:
    """A module of the user's own, imported. Raises `SettingsError` beginning with its name, whatever it does then."""
    try:
        return import_module(name)
    except SystemExit as error:
        ends = f"ends the process (sys.exit({error.code!r}))"
        raise SettingsError(
            f"{name} cannot be imported: it {ends} when it is; take that out of it"
        ) from error
    except Exception as error:  # it may raise anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.partition(".")[0]
        where = " beside the settings, or among what is installed" if missing else ""
        raise SettingsError(f"{name} cannot be imported: {error}{where}") from error


def check_names(key: str, targets: Iterable[Target]) -> None:
    """Refuses two targets of one action that cannot be told apart. Raises `SettingsError`."""
    seen: set[str | None] = set()
    for target in targets:
        if target.name in seen:
            which = f"two targets have the name {target.name!r}" if target.name else "two have no name"
            raise SettingsError(f"{key}: {which}; give each of an action's targets a name of its own")
        seen.add(target.name)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"{url!r} is not a url that begins with https:// or http://")
    if "@" in parts.netloc:
        raise ValueError("a url's user and password would stand here as text: use a header with a secret")
    if "$" in parts.netloc:
        raise ValueError("a url's host is no template: what a lead wrote would choose who is called")
