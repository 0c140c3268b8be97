"""What `doctor` looks at beside NATS and the settings: the folder, its events and views, and what waits too long."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Literal

from msgspec import Struct

import runner
import wiring
from actors.event_store import EventStore
from actors.ownership import owner_of
from cli.queries import views_of
from domain.errors import LeadlineError
from domain.events import BreakerClosed, BreakerOpened, EventSkipped
from domain.skips import SKIPS_STREAM
from projections.queries import Views
from projections.schema import instant
from projections.unfinished import DEAD_LETTER
from settings import Settings

LITTLE_DISK = 1024**3
NO_DISK = 64 * 1024**2
#: Events that the views may be behind while a runner works, before it is worth a word.
MUCH_LAG = 50_000
LONG_OPEN = timedelta(minutes=15)
LONG_DEAD = timedelta(hours=24)
#: The store's last event may be so much later than this clock.
CLOCK_SLACK = timedelta(seconds=60)


class Finding(Struct, frozen=True):
    """What one look found. A `mend` says what to do."""

    subject: str
    state: Literal["good", "warning", "bad"]
    found: str
    mend: str = ""


def look_at_data(settings: Settings) -> Iterator[Finding]:
    folder = settings.data
    there = folder if folder.exists() else folder.absolute().parent
    events = wiring.events_path(settings)
    found = f"{events}, {events.stat().st_size:,} bytes" if events.exists() else f"{events}: not there yet"
    yield Finding("store", "good", found)
    if not there.exists():
        return
    free = shutil.disk_usage(there).free
    said = f"{free / 1024**3:.1f} GiB free beside the data"
    mend = "make room: a full disk holds the intake, and NATS refuses publishers"
    if free < LITTLE_DISK:
        yield Finding("disk", "bad" if free < NO_DISK else "warning", said, mend)
    else:
        yield Finding("disk", "good", said)
    if not os.access(there, os.W_OK):
        yield Finding("store", "bad", f"{there} cannot be written", "give this account the right to")
    for name in ("events.db.restoring", "views.next.db", "views.verify.db", "views.copy.db"):
        if (folder / name).exists():
            mend = "if no restore or rebuild is under way, delete it: what made it was cut off"
            yield Finding("store", "warning", f"{folder / name} is left over", mend)


def look_at_runner(settings: Settings) -> Iterator[Finding]:
    owner = owner_of(settings.data)
    if owner is None:
        mend = "" if not wiring.events_path(settings).exists() else "`leadline up`, or `leadline run`"
        yield Finding("runner", "warning" if mend else "good", "none works on this folder", mend)
    elif owner.state == "draining":
        waited = "; ".join(owner.waiting_for) or "its last checkpoint"
        late = owner.until is not None and datetime.now(UTC) > owner.until + timedelta(seconds=30)
        mend = "a second SIGTERM ends it at once, which is safe" if late else ""
        state: Literal["good", "warning"] = "warning" if late else "good"
        yield Finding("runner", state, f"process {owner.pid} drains, waits for {waited}", mend)
    else:
        yield Finding("runner", "good", f"process {owner.pid}, since {owner.since:%Y-%m-%d %H:%M:%S} UTC")
        if owner.hanging:
            mend = "mend that code; a thread that it keeps for good is free again after a restart"
            found = f"code that does not come back: {'; '.join(owner.hanging)}"
            yield Finding("runner", "warning", found, mend)


def look_at_events(settings: Settings) -> Iterator[Finding]:
    """The store, asked itself: what was skipped, and whether this machine's clock is behind it."""
    if not wiring.events_path(settings).exists():
        return
    try:
        with closing(runner.open_event_log(settings)) as log:
            yield from _skipped(log)
            yield from _clock(log)
            yield from _breakers(views_of(settings), log)
    except (LeadlineError, OSError) as error:
        mend = "`leadline events show` says more; a backup that is sound: `leadline restore`"
        yield Finding("events", "bad", str(error), mend)


def look_at_views(settings: Settings) -> Iterator[Finding]:
    """The views: whether they go on, and what in them waits for a person too long."""
    if not wiring.events_path(settings).exists():
        return
    views = views_of(settings)
    try:
        standing = views.position()
        with closing(runner.open_event_log(settings)) as log:
            lag = log.last_position() - standing.position
    except (LeadlineError, OSError) as error:
        yield Finding("views", "warning", str(error), "a runner makes them, or `leadline rebuild`")
        return
    if standing.stopped_error:
        mend = f"`leadline events show`, then decide; they are {lag:,} events behind"
        yield Finding("views", "bad", f"stopped: {standing.stopped_error}", mend)
    elif lag > MUCH_LAG and owner_of(settings.data) is not None:
        yield Finding("views", "warning", f"{lag:,} events behind", "watch whether that shrinks: `status`")
    else:
        yield Finding("views", "good", f"at event {standing.position:,}, {max(0, lag):,} behind")
    yield from _waiting(views)


def _skipped(log: EventStore) -> Iterator[Finding]:
    skipped = [r for r in log.stream(SKIPS_STREAM) if isinstance(r.event, EventSkipped)]
    if skipped:
        listed = ", ".join(str(r.event.skipped) for r in skipped[:5] if isinstance(r.event, EventSkipped))
        mend = "restore a sound backup, if there is one; `leadline events show` has who skipped what, and why"
        yield Finding("events", "warning", f"{len(skipped)} skipped by a person: {listed}", mend)


def _clock(log: EventStore) -> Iterator[Finding]:
    last = log.last_position()
    newest = log.read(last - 1, 1) if last else []
    ahead = newest[0].at - datetime.now(UTC) if newest else timedelta()
    if ahead > CLOCK_SLACK:
        mend = "set this machine's clock right (NTP): waits and ages are counted by it"
        found = f"the last event is {ahead.total_seconds():,.0f} s in the future: the clock was set back"
        yield Finding("clock", "warning", found, mend)


def _breakers(views: Views, log: EventStore) -> Iterator[Finding]:
    for row in views.breakers():
        if row["state"] == "closed":
            continue
        since: datetime | None = None
        for recorded in log.stream(f"breaker:{row['name']}"):
            if isinstance(recorded.event, BreakerClosed):
                since = None
            elif isinstance(recorded.event, BreakerOpened):
                since = since or recorded.at
        if since is not None and datetime.now(UTC) - since > LONG_OPEN:
            found = f"{row['name']} has not been closed since {since:%Y-%m-%d %H:%M} UTC"
            mend = "look after its target; what waits becomes dead letters after breaker.max_wait_seconds"
            yield Finding("breaker", "warning", found, mend)


def _waiting(views: Views) -> Iterator[Finding]:
    long_ago = instant(datetime.now(UTC) - LONG_DEAD)
    old = [row for row in views.dead_letters(status="failed") if row["updated_at"] < long_ago]
    if old:
        hours = LONG_DEAD.total_seconds() / 3600
        found = f"{len(old)} have waited for more than {hours:g} h, since {old[0]['updated_at'][:16]}"
        mend = "`leadline dlq groups`, then `dlq retry`, `resolve` or `discard`"
        yield Finding("dlq", "warning", found, mend)
    behind = Counter(
        row["waiting_for"] for row in views.unfinished() if row["waiting_for"].startswith(DEAD_LETTER)
    )
    if behind:
        (what, count), *_ = behind.most_common(1)
        found = f"{sum(behind.values())} messages wait behind {len(behind)} dead letters, {count} of them behind {what}"
        mend = "settle these first: `leadline dlq show ID`"
        yield Finding("dlq", "warning", found, mend)
