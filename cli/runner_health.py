"""What `doctor` asks the runner on a folder, and what would keep the next one from starting."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Literal

import runner
import wiring
from actors.incarnations import intake_stream
from actors.ownership import Owner, owner_of
from cli.finding import Finding
from domain.errors import LeadlineError
from domain.tokens import rejects_stream
from settings import PARTITIONS, Settings

_PREFIX = "leadline_"


def look_at_runner(settings: Settings) -> Iterator[Finding]:
    owner = owner_of(settings.data)
    if owner is None:
        mend = "" if not wiring.events_path(settings).exists() else "`leadline up`, or `leadline run`"
        yield Finding("runner", "warning" if mend else "good", "none works on this folder", mend)
        yield from _streams_it_reads(settings)
    elif owner.state == "draining":
        yield _draining(owner)
    else:
        yield Finding("runner", "good", f"process {owner.pid}, since {owner.since:%Y-%m-%d %H:%M:%S} UTC")
        if owner.hanging:
            mend = "mend that code; a thread that it keeps for good is free again after a restart"
            found = f"code that does not come back: {'; '.join(owner.hanging)}"
            yield Finding("runner", "warning", found, mend)
        if owner.metrics is not None:
            yield from _asked(owner.metrics, settings)


def _draining(owner: Owner) -> Finding:
    waited = "; ".join(owner.waiting_for) or "its last checkpoint"
    late = owner.until is not None and datetime.now(UTC) > owner.until + timedelta(seconds=30)
    mend = "a second SIGTERM ends it at once, which is safe" if late else ""
    state: Literal["good", "warning"] = "warning" if late else "good"
    return Finding("runner", state, f"process {owner.pid} drains, waits for {waited}", mend)


def _streams_it_reads(settings: Settings) -> Iterator[Finding]:
    """A damaged event in one of these ends a runner at its start, which then says nothing any more."""
    if not wiring.events_path(settings).exists():
        return
    names = [name(partition) for partition in range(PARTITIONS) for name in (intake_stream, rejects_stream)]
    names += [f"breaker:{name}" for _, _, name, _ in wiring.named_targets(settings)]
    with closing(runner.open_event_log(settings)) as log:
        for name in names:
            try:
                for _ in log.stream(name):
                    pass
            except LeadlineError as error:
                mend = "restore a sound backup, or `leadline events show`, then `leadline events skip`"
                yield Finding("runner", "bad", f"the next one will not start: {error}", mend)


def _asked(address: str, settings: Settings) -> Iterator[Finding]:
    gauges = read_gauges(address)
    if gauges is None:
        mend = "if it stays so: end it (kill -9 is safe) and start it again"
        yield Finding("runner", "warning", f"it does not answer at {address}", mend)
        return
    if gauges.get("journal_stalled"):
        mend = f"make room beside {settings.data}, or end what locks events.db; it goes on by itself, nothing is lost"
        yield Finding(
            "runner", "bad", "the event store cannot be written: nothing goes on (journal stalled)", mend
        )
    if hanging := int(gauges.get("pool_hanging", 0)):
        mend = "the log names the lead; mend the handler or action that does not return, and start again"
        who = f"{hanging} {'leads are' if hanging > 1 else 'lead is'}"
        yield Finding("runner", "bad", f"{who} at one message for too long", mend)
    if gauges.get("intake_connected") == 0:
        mend = "see that NATS runs and answers; it connects again by itself"
        yield Finding("runner", "bad", "it has no connection to NATS", mend)


def read_gauges(address: str) -> dict[str, float] | None:
    """A runner's own figures by name; None where it does not answer."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310  # http, as its runner says it
            lines = answer.read().decode().splitlines()
    except (OSError, ValueError):
        return None
    pairs = (line.removeprefix(_PREFIX).split(" ") for line in lines if line.startswith(_PREFIX))
    return {name: float(value) for name, value in pairs if "{" not in name}
