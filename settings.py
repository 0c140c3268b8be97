"""Every setting of Leadline, read once from `leadline.toml` and `LEADLINE_*` variables, and checked here.

`LEADLINE_NATS__URL` is `url` of `[nats]`; a variable goes before the file, what is given on the command
line before both. A value is written in a variable as in the file, but text needs no quotes. What is
wrong is a `SettingsError` that begins with the setting's key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

import settings_document as documents
from domain.breaker import BreakerPolicy
from domain.errors import SettingsError
from domain.retry import RetryPolicy
from domain.tenants import Business, Tenants, Thresholds
from domain.tokens import BUSINESS_ID
from target_settings import Part, Target, check_names

#: Part of every position's name: with another number, messages of a lead would change their partition.
PARTITIONS = 16

PREFIX = "LEADLINE_"
#: Names the settings file; no setting itself.
CONFIG_VARIABLE = "LEADLINE_CONFIG"

AtLeastOne = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Bytes = Annotated[int, Meta(ge=1_048_576, le=2**53)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
SomeSeconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
AfterDeadLetter = Literal["continue", "park"]


class Nats(Part, frozen=True):
    #: The server that `run`, `publish` and the commands connect to. `up` uses its own instead.
    url: str = "nats://127.0.0.1:4222"
    #: Where that server's monitoring is, for `doctor`; empty: port 8222 on its host. Of `up`'s own it is known.
    monitoring: str = ""
    #: Where `up` starts its server; 0 takes any free port and prints it.
    port: Port = 4222

    def __post_init__(self) -> None:
        if self.monitoring and not self.monitoring.startswith(("http://", "https://")):
            raise ValueError(f"monitoring is no address such as http://127.0.0.1:8222: {self.monitoring!r}")


class Stream(Part, frozen=True):
    #: Messages that are recorded stay in the stream at least so long, for a restore of older events.
    keep_hours: Annotated[float, Meta(ge=0, le=87_600)] = 24.0
    #: A stream of more bytes refuses publishers; it never drops what is unread. Fixed once it is made.
    max_bytes: Bytes = 8_589_934_592


class Intake(Part, frozen=True):
    #: Above this many messages read and not yet recorded the intake stops pulling: more costs memory.
    max_in_hand: AtLeastOne = 8000
    #: Messages asked for at once, per partition: fewer means more round trips to NATS.
    pull_batch: AtLeastOne = 500
    #: How often moved positions are recorded: longer means more to skip after a crash.
    checkpoint_seconds: Annotated[float, Meta(gt=0, le=60)] = 1.0


class Pool(Part, frozen=True):
    #: Threads that the lead actors share. They share one interpreter too: more were slower wherever it was measured.
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    #: How long a thread may keep the interpreter that another waits for: longer raises latency, shorter costs
    #: throughput, and both suffer at the ends.
    switch_interval_ms: Annotated[float, Meta(gt=0, le=100)] = 2.0
    #: A thread that is at one message for longer is said to hang (log, `status`, `/metrics`), and replaced.
    busy_warning_seconds: SomeSeconds = 2.0


class Leads(Part, frozen=True):
    #: A lead without mail for so long goes to sleep: shorter saves memory, and reads events again sooner.
    idle_seconds: SomeSeconds = 60.0
    #: Leads in memory at once; above it the longest idle ones are put to sleep.
    max_living: AtLeastOne = 20_000
    #: Waits before a lead whose code raised is tried again; after the last one it is stopped.
    restart_delays_seconds: tuple[Seconds, ...] = (1.0, 5.0)
    #: A lead whose code is at one message for so long is stopped.
    give_up_seconds: SomeSeconds = 30.0


class Journal(Part, frozen=True):
    #: Appends in one commit at most: more is faster under load and longer for each that waits.
    max_appends: AtLeastOne = 1500


class Projector(Part, frozen=True):
    #: `process` leaves the interpreter to the actors; `thread` saves the memory of a second process.
    mode: Literal["process", "thread"] = "process"
    #: How long the views wait for more events before a batch: longer is less work and older views.
    linger_ms: Annotated[float, Meta(ge=0, le=60_000)] = 50.0
    #: Events folded in one transaction at most.
    batch: AtLeastOne = 8000


class Outbox(Part, frozen=True):
    #: Publish to `leads.out.<business>.<lead>.results` how each message ended.
    results: bool = True
    #: Publish to `leads.out.<business>.<lead>.replies` what the lead is told; too late, a task for sales instead.
    replies: bool = True
    #: Answer requests to `leads.process` with the message's result; needs the results.
    service: bool = True
    #: How long results wait for more events: shorter answers whoever waits sooner and takes more CPU.
    linger_ms: Annotated[float, Meta(ge=1, le=60_000)] = 25.0
    #: Results and replies of so many hours are kept for readers who are away. A day is the least: a reply that
    #: may have been sent before a crash is looked for here.
    max_age_hours: Annotated[float, Meta(ge=25, le=8760)] = 168.0
    #: Of more bytes the oldest go, whatever their age: size it for `max_age_hours`.
    max_bytes: Bytes = 2_147_483_648

    @property
    def on(self) -> bool:
        """Whether anything goes out."""
        return self.results or self.replies

    def __post_init__(self) -> None:
        if self.service and not self.results:
            raise ValueError("service answers with results, and results is off: switch service off too")


class Retry(Part, frozen=True):
    #: Waits before the second, third, … call; their number bounds the calls.
    delays_seconds: tuple[Seconds, ...] = (1.0, 5.0, 15.0)
    #: Each wait is stretched or shrunk by at most this share, so that failed calls do not come back together.
    jitter: Share = 0.1
    #: A target that asks for a longer pause (`Retry-After`) is called again after this one.
    retry_after_cap_seconds: Seconds = 300.0

    def policy(self) -> RetryPolicy:
        """These settings in the domain's terms."""
        delays = tuple(timedelta(seconds=seconds) for seconds in self.delays_seconds)
        return RetryPolicy(delays, self.jitter, timedelta(seconds=self.retry_after_cap_seconds))


class Breaker(Part, frozen=True):
    #: Calls of the last so many seconds are counted.
    window_seconds: AtLeastOne = 30
    #: With fewer calls in the window a breaker stays closed, whatever fails.
    minimum_calls: AtLeastOne = 5
    #: This share of failed calls opens the breaker.
    failure_rate: Annotated[float, Meta(gt=0, le=1)] = 0.5
    #: How long it stays open the first time; doubled each time its probes fail.
    open_seconds: SomeSeconds = 10.0
    #: The doubling ends here.
    open_cap_seconds: SomeSeconds = 300.0
    #: Calls let through half-open; when all come back well, it closes.
    probes: AtLeastOne = 2
    #: An action that waited so long for an open breaker fails, and its message becomes a dead letter.
    max_wait_seconds: Seconds = 900.0

    def policy(self) -> BreakerPolicy:
        """These settings in the domain's terms."""
        return BreakerPolicy(
            window_us=self.window_seconds * 1_000_000,
            minimum_calls=self.minimum_calls,
            failure_rate=self.failure_rate,
            open_us=round(self.open_seconds * 1_000_000),
            open_cap_us=round(self.open_cap_seconds * 1_000_000),
            probes=self.probes,
        )


class Confidence(Part, frozen=True):
    #: At or above it a message's actions are done without a person.
    high: Share = 0.80
    #: Below it a message goes to the unknown-intent handler.
    low: Share = 0.50

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")


class Tenant(Part, frozen=True):
    #: The businesses of this tenant; a message for any other business is rejected.
    businesses: tuple[str, ...]


class BusinessOverrides(Part, frozen=True):
    #: Instead of `thresholds.high`, for this business.
    high: Share | None = None
    #: Instead of `thresholds.low`, for this business.
    low: Share | None = None
    #: Instead of the common one, for this business.
    after_dead_letter: AfterDeadLetter | None = None
    #: Action → the targets that it calls for this business, instead of the common ones; each its own breaker.
    targets: dict[str, tuple[Target, ...]] = {}


class Settings(Part, frozen=True):
    #: The folder of all that is kept (`events.db`, `views.db`, `jetstream/`); another is another Leadline.
    data: Path = Path("data")
    #: Where `up` and `run` serve `/metrics`, on loopback; 0 takes any free port and prints it.
    http_port: Port = 8400
    #: On SIGTERM, how long appends and calls in flight may take before they are left to the next start.
    drain_seconds: Seconds = 10.0
    #: Whether a lead's later messages go on when one is a dead letter, or wait behind it, in order (`park`).
    after_dead_letter: AfterDeadLetter = "continue"
    #: Python modules with your own intent handlers and actions, imported at start: files beside these settings, or
    #: what is installed.
    modules: tuple[str, ...] = ()
    nats: Nats = Nats()
    stream: Stream = Stream()
    intake: Intake = Intake()
    pool: Pool = Pool()
    leads: Leads = Leads()
    journal: Journal = Journal()
    projector: Projector = Projector()
    outbox: Outbox = Outbox()
    retry: Retry = Retry()
    breaker: Breaker = Breaker()
    #: For every business that has none of its own.
    thresholds: Confidence = Confidence()
    #: Tenant → its businesses: whose messages are taken, and what is kept apart.
    tenants_: dict[str, Tenant] = field(default_factory=dict, name="tenants")
    #: Action → the targets that it calls, in order, for every business without any of its own.
    targets: dict[str, tuple[Target, ...]] = {}
    #: Business → what is different for it.
    businesses: dict[str, BusinessOverrides] = {}

    def tenants(self) -> Tenants:
        """Every business with its tenant and thresholds. Raises `SettingsError`."""
        found: dict[str, Business] = {}
        for tenant_id, tenant in self.tenants_.items():
            for business_id in tenant.businesses:
                key = f"tenants.{tenant_id}.businesses"
                if not BUSINESS_ID.fullmatch(business_id):
                    raise SettingsError(f"{key}: {business_id!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
                if business_id in found:
                    other = found[business_id].tenant_id
                    raise SettingsError(f"{key}: {business_id!r} is a business of tenant {other!r} already")
                found[business_id] = Business(
                    business_id, tenant_id, self._thresholds_of(business_id), parks=self._parks(business_id)
                )
        for business_id in self.businesses:
            if business_id not in found:
                hint = documents.did_you_mean(business_id, found)
                raise SettingsError(f"businesses.{business_id}: no tenant has this business{hint}")
        return Tenants(found)

    def target_tables(self) -> Iterator[tuple[str, tuple[Target, ...]]]:
        """The targets of each action, by the key of their setting."""
        for action, targets in self.targets.items():
            yield f"targets.{action}", targets
        for business_id, business in self.businesses.items():
            for action, targets in business.targets.items():
                yield f"businesses.{business_id}.targets.{action}", targets

    def _parks(self, business_id: str) -> bool:
        own = self.businesses.get(business_id, BusinessOverrides()).after_dead_letter
        return (own or self.after_dead_letter) == "park"

    def _thresholds_of(self, business_id: str) -> Thresholds:
        own = self.businesses.get(business_id, BusinessOverrides())
        high = self.thresholds.high if own.high is None else own.high
        low = self.thresholds.low if own.low is None else own.low
        if low > high:
            raise SettingsError(f"businesses.{business_id}.low: {low} is above high ({high})")
        return Thresholds(high, low)


def chosen_file(file: Path | None, env: Mapping[str, str]) -> Path | None:
    """The settings' file that is named, on the command line or in the environment; None where none is."""
    return Path(env[CONFIG_VARIABLE]) if file is None and CONFIG_VARIABLE in env else file


def load(
    file: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of a file (default: `LEADLINE_CONFIG`, else ./leadline.toml if there is one), of the
    environment, and of the command line (`overrides`: dotted key → value). Raises `SettingsError`.
    """
    env = os.environ if env is None else env
    document = documents.read(chosen_file(file, env))
    for name, value in env.items():
        if name.startswith(PREFIX) and name != CONFIG_VARIABLE:
            path = name.removeprefix(PREFIX).lower().split("__")
            documents.put(document, path, documents.value_of(value), name)
    for key, value in (overrides or {}).items():
        documents.put(document, key.split("."), value, key)
    documents.list_targets(document)
    documents.check_keys(document, Settings, "")
    settings: Settings = documents.convert(document, Settings, "")
    settings.tenants()
    for key, targets in settings.target_tables():
        check_names(key, targets)
    return settings
