"""What `doctor` looks at beside NATS and the settings: the folder, its events and views, and what waits too long."""

from __future__ import annotations

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sized
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import runner
import wiring
from actors.event_store import EventStore
from actors.ownership import owner_of
from cli.finding import Finding
from cli.output import short
from cli.queries import views_of
from domain.errors import LeadlineError
from domain.events import BreakerClosed, BreakerOpened, EventSkipped, LeadStopped
from domain.skips import SKIPS_STREAM
from domain.tokens import encode, lead_stream, rejects_stream
from outbox.position import read_position
from projections.queries import Row, Views
from projections.schema import instant
from projections.unfinished import DEAD_LETTER, LEAD_RESUME, TARGET_CONFIGURATION, waits_for_person
from settings import PARTITIONS, Settings

LITTLE_DISK = 1024**3
NO_DISK = 64 * 1024**2
#: Events that the views may be behind while a runner works, before it is worth a word.
MUCH_LAG = 50_000
LONG_OPEN = timedelta(minutes=15)
LONG_DEAD = timedelta(hours=24)
LONG_AT_WORK = timedelta(hours=1)
#: Of many, so many are named.
LISTED = 3
#: The store's last event may be so much later than this clock.
CLOCK_SLACK = timedelta(seconds=60)


def look_at_data(settings: Settings) -> Iterator[Finding]:
    folder = settings.data
    there = folder if folder.exists() else folder.absolute().parent
    events = wiring.events_path(settings)
    yield Finding("store", "good", _size_of(events) if events.exists() else f"{events}: not there yet")
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


def _size_of(events: Path) -> str:
    """With the write-ahead log, where what was recorded last stands alone."""
    files = (events, events.with_name(f"{events.name}-wal"))
    size = sum(file.stat().st_size for file in files if file.exists())
    return f"{events}, {size:,} bytes with its write-ahead log"


def look_at_events(settings: Settings) -> Iterator[Finding]:
    """The store, asked itself: what was skipped, and whether this machine's clock is behind it."""
    if not wiring.events_path(settings).exists():
        return
    try:
        with closing(runner.open_event_log(settings)) as log:
            yield from _skipped(log)
            yield from _clock(log)
    except (LeadlineError, OSError) as error:
        mend = "`leadline events show` says more; a backup that is sound: `leadline restore`"
        yield Finding("events", "bad", str(error), mend)


def look_at_outbox(settings: Settings) -> Iterator[Finding]:
    """Results and replies: whether they go on."""
    file = wiring.outbox_path(settings)
    if not settings.outbox.on or not file.exists() or not wiring.events_path(settings).exists():
        return
    standing = read_position(file)
    if standing is None:
        mend = "put back a copy of it, or remove it: then they begin at the end of what is recorded"
        yield Finding("outbox", "bad", f"{file} cannot be read", mend)
        return
    with closing(runner.open_event_log(settings)) as log:
        lag = max(0, log.last_position() - standing.position)
    if standing.stopped:
        mend = f"`leadline events show`, then decide; results and replies are {lag:,} events behind"
        yield Finding("outbox", "bad", f"stopped: {standing.stopped}", mend)
    elif lag > MUCH_LAG and owner_of(settings.data) is not None:
        mend = "the log says why NATS refuses them; watch whether that shrinks: `status`"
        yield Finding("outbox", "warning", f"results and replies are {lag:,} events behind", mend)
    else:
        yield Finding("outbox", "good", f"at event {standing.position:,}, {lag:,} behind")


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
    with closing(runner.open_event_log(settings)) as log:
        yield from _breakers(settings, views, log)
        yield from _waiting(views, log, working=owner_of(settings.data) is not None)


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


def _breakers(settings: Settings, views: Views, log: EventStore) -> Iterator[Finding]:
    """Those that are not closed; of a target that the settings no longer name nobody learns anything more."""
    named = {name for _, _, name, _ in wiring.named_targets(settings)}
    for row in views.breakers():
        if row["state"] == "closed" or row["name"] not in named:
            continue
        since, last = None, None
        for recorded in log.stream(f"breaker:{row['name']}"):
            if isinstance(recorded.event, BreakerClosed):
                since = None
            elif isinstance(recorded.event, BreakerOpened):
                since, last = since or recorded.at, recorded.event
        if since is not None and last is not None:
            state = row["state"].replace("_", "-")
            found = f"{row['name']} is {state}, not closed since {since:%Y-%m-%d %H:%M} UTC: {last.error}"
            yield Finding("breaker", "warning", found, _mend_of(row["state"], last, since))


def _mend_of(state: str, opened: BreakerOpened, since: datetime) -> str:
    if state == "half_open":
        return "nothing yet: the next calls of it are probes, and close it when they come back well"
    if opened.switched_off:
        return "take it up with its owner, or change the settings; start Leadline again"
    if opened.configuration:
        return "mend its secret or its login: it is probed by a timer; mended settings are read at a start"
    if datetime.now(UTC) - since < LONG_OPEN:
        return "nothing yet: it is probed by a timer"
    return "look after its target; what waits becomes dead letters after breaker.max_wait_seconds"


def _waiting(views: Views, log: EventStore, *, working: bool) -> Iterator[Finding]:
    letters, unfinished = views.dead_letters(status="failed"), views.unfinished()
    yield from _stopped(letters, unfinished, log)
    yield from _unsettled(letters)
    yield from _old(letters)
    yield from _parked(unfinished)
    waiting = [row for row in unfinished if row["waiting_for"] == TARGET_CONFIGURATION]
    if waiting:
        found = (
            f"{_count(waiting, 'message')} held up by a target's configuration, since {_since(waiting[0])}"
        )
        yield Finding(
            "work", "warning", found, "mend its secret or its table: `leadline breakers` says which"
        )
    if working:
        yield from _slow(unfinished)


def _stopped(letters: list[Row], unfinished: list[Row], log: EventStore) -> Iterator[Finding]:
    kept = [row for row in letters if row["category"] == "lead_stopped"]
    held = [row for row in unfinished if row["waiting_for"] == LEAD_RESUME]
    leads = sorted({(row["business_id"], row["lead_id"]) for row in [*kept, *held]})
    if leads:
        stops = _stops(log)
        named = [(f"{b}/{lead}", stops.get(lead_stream(b, encode(lead)))) for b, lead in leads]
        listed = _listed(f"{name} (event {why[0]}: {short(why[1])})" if why else name for name, why in named)
        first = next((why[0] for _, why in named if why), "POSITION")
        shown = f"`leadline events show {first}` has the stack"
        mend = f"mend the code ({shown}), restart, `leadline lead resume BUSINESS LEAD`"
        yield Finding("leads", "bad", f"{_count(leads, 'lead')} stopped: {listed}", mend)


def _stops(log: EventStore) -> dict[str, tuple[int, str]]:
    """Stream of a lead → position of the event of its last stop, and its error; as far as they can be read."""
    found: dict[str, tuple[int, str]] = {}
    for partition in range(PARTITIONS):
        with suppress(LeadlineError):  # the look at the runner says which event it is
            for recorded in log.stream(rejects_stream(partition)):
                if isinstance(recorded.event, LeadStopped):
                    found[recorded.event.lead_stream] = recorded.position, recorded.event.error
    return found


def _unsettled(letters: list[Row]) -> Iterator[Finding]:
    unknown = [row for row in letters if row["category"] == "outcome_unknown"]
    if unknown:
        found = (
            f"of {_count(unknown, 'call')} nobody knows the outcome: {_listed(row['id'] for row in unknown)}"
        )
        mend = "look in the target's system, then `leadline dlq resolve ID --as done|undone|retry|skip`"
        yield Finding("dlq", "warning", found, mend)
    stuck = [row for row in letters if row["category"] == "compensation_failed"]
    if stuck:
        found = f"of {_count(stuck, 'message')} something could not be undone: {_listed(row['id'] for row in stuck)}"
        mend = (
            "undo it by hand, or have it tried again: `leadline dlq resolve ID --as undone|retry|done|skip`"
        )
        yield Finding("dlq", "warning", found, mend)


def _old(letters: list[Row]) -> Iterator[Finding]:
    long_ago = instant(datetime.now(UTC) - LONG_DEAD)
    old = [row for row in letters if row["updated_at"] < long_ago]
    if old:
        hours = LONG_DEAD.total_seconds() / 3600
        found = f"{len(old)} have waited for more than {hours:g} h, since {old[0]['updated_at'][:16]}"
        mend = "`leadline dlq groups`, then `dlq retry`, `resolve` or `discard`"
        yield Finding("dlq", "warning", found, mend)


def _parked(unfinished: list[Row]) -> Iterator[Finding]:
    behind = Counter(row["waiting_for"] for row in unfinished if row["waiting_for"].startswith(DEAD_LETTER))
    if behind:
        (what, count), *_ = behind.most_common(1)
        held = f"{_count(range(behind.total()), 'message')} behind {_count(behind, 'dead letter')}"
        found = f"{held}, {count} of them behind {what}"
        mend = "settle these first: `leadline dlq show ID`"
        yield Finding("dlq", "warning", found, mend)


def _slow(unfinished: list[Row]) -> Iterator[Finding]:
    """What waits for no person, and is at work for very long beside a living runner."""
    long_ago = instant(datetime.now(UTC) - LONG_AT_WORK)
    slow = [row for row in unfinished if row["since"] < long_ago and not waits_for_person(row["waiting_for"])]
    if slow:
        first = slow[0]
        found = f"{_count(slow, 'message')} at work for more than an hour, the first since {_since(first)}"
        found += f", which waits for {first['waiting_for']}"
        mend = f"`leadline lead {first['business_id']} {shlex.quote(first['lead_id'])}` says what it has met"
        yield Finding("work", "warning", found, mend)


def _count(found: Sized, noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


def _listed(words: Iterable[str]) -> str:
    """The first few of them."""
    several = list(words)
    return ", ".join(several[:LISTED]) + (", …" if len(several) > LISTED else "")


def _since(row: Row) -> str:
    return f"{row['since'][:16].replace('T', ' ')} UTC"
