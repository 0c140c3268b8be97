"""What `doctor` sees of the streams: whether they are as they must be, how full they are, and what was lost of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import Struct

import runner
import wiring
from actors import connection, jetstream, log_status, stream
from actors.jetstream import JetStreamError, JetStreamSilentError
from actors.log_status import LogStatus
from cli.finding import Finding
from domain.errors import LeadlineError
from settings import PARTITIONS, Settings

NEARLY_FULL = 0.8
FULL = 0.95
#: A reply that may have been sent before a crash is looked for among those of a day.
OUT_NEEDS = timedelta(hours=25)
#: Purging is a matter of minutes; so much later it is held up.
PURGE_SLACK = timedelta(hours=1)


class Seen(Struct, frozen=True):
    """What NATS says of both streams: what is wrong with each, and its own answer, None where it is not there."""

    wrong: list[str]
    wrong_out: list[str]
    leads: dict[str, Any] | None
    out: dict[str, Any] | None


def look_at_streams(settings: Settings) -> Iterator[Finding]:
    try:
        seen = asyncio.run(_seen(settings))
    except LeadlineError:
        return  # no server: said already
    yield from _as_needed(stream.STREAM, f"is as Leadline needs it, {PARTITIONS} partitions", seen.wrong)
    if seen.leads is not None:
        yield from _fill(seen.leads)
        yield from _purged(seen.leads, settings)
        yield from _lost(settings)
    if settings.outbox.on:
        yield from _as_needed(stream.OUT_STREAM, "is as results and replies need it", seen.wrong_out)
        if seen.out is not None:
            yield from _batches(seen.out)
            yield from _fill_out(seen.out)


def server_time(settings: Settings) -> datetime | None:
    """The server's clock, as its answer about the stream has it; None where there is no stream to ask about."""
    try:
        seen = asyncio.run(_seen(settings))
    except LeadlineError:
        return None
    told = (seen.leads or {}).get("ts")
    return None if told is None else _instant(told)


async def _seen(settings: Settings) -> Seen:
    client = await connection.connect(settings.nats.url, name="leadline doctor", reconnect=False)
    try:
        return Seen(
            await stream.check(client, settings.stream.max_bytes),
            await stream.check_out(client),
            await _info(client, stream.STREAM),
            await _info(client, stream.OUT_STREAM),
        )
    finally:
        await client.close()


async def _info(client: connection.Connection, name: str) -> dict[str, Any] | None:
    try:
        return await jetstream.call(client, f"STREAM.INFO.{name}")
    except (JetStreamError, JetStreamSilentError):
        return None  # `check` says why


def _as_needed(name: str, good: str, wrong: list[str]) -> Iterator[Finding]:
    if not wrong:
        yield Finding("stream", "good", f"{name} {good}")
    for complaint in wrong:
        missing = "not there yet" in complaint
        mend = "" if missing else f"`nats stream edit {name}`, or a server of its own"
        yield Finding("stream", "warning" if missing else "bad", complaint, mend)


def _fill(leads: dict[str, Any]) -> Iterator[Finding]:
    share = _share(leads)
    if share >= NEARLY_FULL:
        mend = "less of stream.keep_hours frees room; more of stream.max_bytes, with `nats stream edit LEADS`, too"
        found = f"LEADS is {share:.0%} full: a full one refuses publishers"
        yield Finding("stream", "bad" if share >= FULL else "warning", found, mend)


def _purged(leads: dict[str, Any], settings: Settings) -> Iterator[Finding]:
    """What is recorded and older than `keep_hours` goes; where it stays, a position stands still."""
    state = leads["state"]
    if not state["messages"]:
        return
    age = datetime.now(UTC) - _instant(state["first_ts"])
    if age > timedelta(hours=settings.stream.keep_hours) + PURGE_SLACK:
        found = f"LEADS goes back {age.total_seconds() / 3600:,.0f} h, and keep_hours is {settings.stream.keep_hours:g}"
        mend = "`leadline status` says which partition is not read to its end; only a runner purges"
        yield Finding("stream", "warning", found, mend)


def _batches(out: dict[str, Any]) -> Iterator[Finding]:
    if not stream.takes_batches(out):
        found = "LEADS_OUT takes no batches: each result and reply is a synced write of its own"
        mend = "a runner sets allow_atomic when it starts; where that does not help, update nats-server (2.12 or later)"
        yield Finding("stream", "warning", found, mend)


def _fill_out(out: dict[str, Any]) -> Iterator[Finding]:
    state = out["state"]
    if not state["messages"] or _share(out) < NEARLY_FULL:
        return
    age = datetime.now(UTC) - _instant(state["first_ts"])
    if age < OUT_NEEDS:
        found = f"LEADS_OUT is {_share(out):.0%} full and holds {age.total_seconds() / 3600:.1f} h: it drops the oldest"
        mend = "raise outbox.max_bytes: readers who are away lose results, and a day is needed to repeat no reply"
        yield Finding("stream", "warning", found, mend)


def _lost(settings: Settings) -> Iterator[Finding]:
    log = _status(settings)
    if log is None:
        return
    if log.rewound:
        mend = (
            "start a runner: it records that, and reads on; whatever was above is lost unless it was recorded"
        )
        yield Finding("stream", "warning", "LEADS ends below a position: it was restored or made anew", mend)
    if log.lost:
        count = sum(one.count for one in log.lost)
        found = (
            f"up to {count:,} entries of LEADS were gone before they were read: purged, or lost by a restore"
        )
        mend = "`leadline status` has the sequences; have that time published again: what was read is known"
        yield Finding("stream", "warning", found, mend)


def _status(settings: Settings) -> LogStatus | None:
    if not wiring.events_path(settings).exists():
        return None
    with closing(runner.open_event_log(settings)) as log:
        return asyncio.run(log_status.read_status_at(settings.nats.url, log.read_position, log.stream))


def _share(answer: dict[str, Any]) -> float:
    limit = answer["config"].get("max_bytes", -1)
    return float(answer["state"]["bytes"] / limit) if limit > 0 else 0.0


def _instant(told: str) -> datetime:
    """To the microsecond: the server gives nine digits or none."""
    return msgspec.convert(told, datetime)
