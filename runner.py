"""The composition root: settings → `build(settings)` → a system that starts and stops.

Knows every part and how they fit; decides nothing itself. `python runner.py …` is the command `leadline`.
"""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import wiring
from actors.arrivals import Arrivals
from actors.breaker import BreakerActor, TargetParts
from actors.calls import CallRegistry
from actors.clock import SystemClock
from actors.directory import Directory
from actors.event_store import EventStore
from actors.executors import registry as executors
from actors.guardian import whose_code_hangs
from actors.intake import Intake, IntakePorts
from actors.journal import JournalActor, JournalHandle, open_recorder, stop_journal
from actors.lead import LeadParts
from actors.ownership import DataFolderLock, Owner, own, telling
from actors.pool import Dispatcher
from actors.positions import Positions
from actors.recording import Recording
from actors.recovery import unfinished_leads
from actors.rejects import RejectsActor, RejectsParts
from actors.scheduler import Scheduler
from domain.errors import LeadlineError
from domain.playbook import Playbook
from domain.ports import Target
from domain.tokens import encode, lead_stream
from outbox.host import gauges as outbox_gauges
from outbox.host import start_outbox
from projections import collector
from projections.host import Host, SetUp, as_it_is, project_in_process, project_in_thread
from projections.projector import ProjectorSettings
from projections.queries import Views
from settings import PARTITIONS, Settings
from target_settings import Target as TargetSettings
from target_wiring import make_target

_WATCH_SECONDS = 0.5

T = TypeVar("T")


def open_event_log(settings: Settings) -> EventStore:
    """A reader of the event store, beside a runner or without one. Raises OSError or `LeadlineError` without one."""
    store = EventStore.open(wiring.events_path(settings))
    try:
        store.last_position()
    except Exception as error:  # the library's own, whatever is wrong with the file
        raise LeadlineError(f"{wiring.events_path(settings)} cannot be read: {error}") from error
    return store


def own_data_folder(
    settings: Settings, *, on_wait: Callable[[Owner], None] = lambda _: None
) -> DataFolderLock:
    """The folder's lock, held: `ownership.own`."""
    return own(settings.data, on_wait)


def build(
    settings: Settings,
    *,
    clock: SystemClock | None = None,
    target_of: Callable[[TargetSettings], Target] = make_target,
    owner: DataFolderLock | None = None,
    set_up: SetUp = as_it_is,
) -> System:
    """The whole system, not yet started; `set_up` is done first in each process that it starts.

    Raises `SettingsError` for what only the modules can tell.
    """
    modules = wiring.import_modules(settings)
    known = executors.discover(modules)
    playbook = wiring.playbook(settings, modules, known)
    targets = dict(wiring.targets(settings, known, target_of))
    return System(settings, playbook, targets, clock=clock or SystemClock(), owner=owner, set_up=set_up)


class System:
    """Everything that runs in one process. Start and stop it once, from the main thread."""

    def __init__(
        self,
        settings: Settings,
        playbook: Playbook,
        targets: Mapping[str, TargetParts],
        *,
        clock: SystemClock,
        owner: DataFolderLock | None,
        set_up: SetUp = as_it_is,
    ) -> None:
        self.settings = settings
        self._playbook = playbook
        self._targets = targets
        self._clock = clock
        self._owner = owner
        self._set_up = set_up
        self.dispatcher = Dispatcher(settings.pool.threads)
        self.scheduler = Scheduler(self._tell)
        self.directory = Directory(wiring.limits(settings), self.scheduler.arm)
        self.guardian = wiring.guardian(settings, self.dispatcher, self.directory.give_up)
        self.positions = Positions(PARTITIONS)
        self.calls = CallRegistry(self.directory.tell, targets.__contains__)
        self.http_url: str | None = None
        self._outbox: Host | None = None
        self._breakers: list[BreakerActor] = []
        self._closers: list[Callable[[], None]] = []
        self._over = threading.Event()

    def start(self) -> None:
        """Returns once messages are taken. Raises `LeadlineError` or OSError for what a person can mend;
        what was begun is ended then."""
        try:
            self.prepare()
            self.open()
        except BaseException:
            self.guardian.stopping()
            self._close()
            raise

    def stop(self) -> None:
        """Drain: take nothing more, let appends and calls in flight finish within the grace time, write the
        positions. Stopping at once instead is safe too."""
        self.guardian.stopping()
        self._over.set()
        grace = self.settings.drain_seconds
        until, since = time.monotonic() + grace, self._clock.now()
        with telling(self._lock, lambda: self._draining(since)):
            self.intake.drain(grace)
            while self._calls_at_work() and time.monotonic() < until:
                time.sleep(0.01)
        self._close()

    def _calls_at_work(self) -> list[str]:
        """Keys of the calls that a target is asked for; not of those that only wait for their turn."""
        keys = self.calls.keys()
        held = set[str]().union(*(breaker.held_keys() for breaker in self._breakers)) if keys else set()
        return [key for key in keys if key not in held]

    def _draining(self, since: datetime) -> Owner:
        """What it still waits for, while it drains."""
        in_hand = self.positions.in_hand()
        waiting = [f"{in_hand} messages to be recorded"] if in_hand else []
        waiting += [f"the call {key}" for key in self._calls_at_work()]
        until = since + timedelta(seconds=self.settings.drain_seconds)
        return Owner(os.getpid(), "draining", since, until, tuple(waiting))

    def wait(self, timeout: float | None = None) -> bool:
        """Until a part died (True; `guardian.cause` says which) or the time is over (False)."""
        return self.guardian.ended.wait(timeout)

    def gauges(self) -> dict[str, float]:
        """The process's own figures, beside the metrics view."""
        commits = max(1, self._journal.commits)
        return {
            **self.directory.gauges(),
            **{f"intake_{name}": value for name, value in self.intake.gauges().items()},
            "calls_in_flight": self.calls.count(),
            "timers_pending": self.scheduler.pending(),
            "pool_waiting": self.dispatcher.waiting(),
            "pool_hanging": len(self.guardian.hanging()),
            "journal_commits": self._journal.commits,
            "journal_appends_per_commit": self._journal.committed_appends / commits,
            "journal_stalled": float(self._journal.stalled is not None),
            **outbox_gauges(wiring.outbox_path(self.settings), self.store.last_position),
        }

    def prepare(self) -> None:
        """Everything but the intake: the first half of `start`."""
        settings = self.settings
        sys.setswitchinterval(settings.pool.switch_interval_ms / 1000)
        self._lock = self._owner or own_data_folder(settings)
        if self._owner is None:
            self._closers.append(self._lock.release)
        recorder = open_recorder(wiring.events_path(settings))
        self.store = EventStore(recorder)
        self._closers.append(self.store.close)
        self._start_journal(recorder)
        self.scheduler.start()
        self.dispatcher.start()
        self._closers += [self.dispatcher.stop, self.scheduler.stop]
        self._start_projector()
        self._start_outbox()
        self._open_directory()
        gc.collect()
        gc.freeze()  # what is alive now stays: a full collection need not look at it again [H27]
        gc.set_threshold(50_000, 20, 50)

    def open(self) -> None:
        """Take messages: the second half of `start`."""
        self.intake.start()
        self._start_thread("recovery", self._recover)
        self._start_thread("watch", self._watch)
        self._serve_metrics()

    def _start_journal(self, recorder: Any) -> None:
        ref = JournalActor.start(
            recorder,
            self.positions,
            max_appends=self.settings.journal.max_appends,
            on_death=lambda error: self.guardian.died("the journal", error),
            more_to_come=self.dispatcher.waiting,
        )
        actor = ref._actor_weakref()  # noqa: SLF001  # its gauges are read beside its mailbox
        assert isinstance(actor, JournalActor)  # it lives: its thread has just started
        self._journal, self._handle = actor, JournalHandle(actor)
        self._closers.append(lambda: stop_journal(ref))

    def _start_projector(self) -> None:
        settings = self.settings
        open_log = partial(EventStore.open, wiring.events_path(settings))
        pace = ProjectorSettings(settings.projector.batch, settings.projector.linger_ms / 1000)
        views = wiring.views_path(settings)
        self._projector: Host
        if settings.projector.mode == "process":
            self._projector = project_in_process(open_log, views, pace, self._set_up)
        else:
            died = partial(self.guardian.died, "the projector")
            self._projector = project_in_thread(open_log, views, pace, died)
        self._closers.append(self._projector.stop)

    def _start_outbox(self) -> None:
        settings = self.settings
        self._outbox = start_outbox(
            wiring.outbox_parts(settings, partial(EventStore.open, wiring.events_path(settings))),
            self.store,
            settings.projector.mode,
            set_up=self._set_up,
            on_death=partial(self.guardian.died, "the outbox"),
        )
        if self._outbox is not None:
            self._closers.append(self._outbox.stop)

    def _open_directory(self) -> None:
        settings, directory, store = self.settings, self.directory, self.store
        arrivals = Arrivals(store)
        process, number = secrets.token_hex(6), itertools.count(1).__next__
        recording = Recording(
            dispatcher=self.dispatcher,
            journal=self._handle,
            clock=self._clock,
            next_event_id=lambda: f"{process}-{number():x}",
            tell=directory.tell,
            load=arrivals.load,
            backwards=store.backwards,
            snapshot=store.snapshot,
            keep=self._handle.keep,
        )
        tenants, positions = self._playbook.tenants, self.positions
        self.intake = Intake(
            wiring.intake_settings(settings),
            IntakePorts(tenants, directory, self._handle, positions, store.read_position, store.stream),
            on_death=lambda error: self.guardian.died("the intake", error),
            clock=self._clock.now,
        )
        self._closers.append(self.intake.stop)
        self._install_breakers(recording)
        stopped, resuming = self._install_rejects(recording)
        parts = LeadParts(
            recording=recording,
            playbook=self._playbook,
            calls=self.calls,
            arm=self.scheduler.arm,
            positions=positions,
            replies=self.intake,
            woken=arrivals.woken,
            recovered=directory.recovered,
            crashed=directory.crashed,
        )
        directory.open(parts, stopped, resuming)

    def _install_breakers(self, recording: Recording) -> None:
        for target in self._targets.values():
            actor = BreakerActor(target, recording, self.calls, self.scheduler.arm, self.guardian.died)
            self._breakers.append(actor)
            self.directory.install(actor)
            actor.load()  # leads ask it from their own threads; one that is open arms its timer
            self._closers.append(actor.staff.stop)
            self.directory.wake([actor.actor_urn])  # one that its settings have opened is probed

    def _install_rejects(self, recording: Recording) -> tuple[set[str], set[str]]:
        """The rejects' actors; which leads are stopped, and which were being resumed when the process died."""
        stopped: set[str] = set()
        resuming: set[str] = set()
        parts = RejectsParts(
            recording=recording,
            tenants=self._playbook.tenants,
            positions=self.positions,
            replies=self.intake,
            resumed=self.directory.resumed,
            still_stopped=self.directory.still_stopped,
            tell=self.directory.tell,
            answered=self.directory.answered,
            answer_in=self.store.answer_in,
            read_position=self.store.read_position,
            on_death=self.guardian.died,
        )
        for partition in range(PARTITIONS):
            actor = RejectsActor(partition, parts)
            actor.load()
            stopped |= actor.stopped_leads()
            resuming |= actor.being_resumed()
            self.directory.install(actor)
        return stopped, resuming

    def _recover(self) -> None:
        """Wake the leads with unfinished work: by the view once it has caught up, else by the events [H24]."""
        until = self.store.last_position()
        views = Views(wiring.views_path(self.settings))
        while not self._over.is_set():
            standing = _readable(views.position)
            caught_up = standing is not None and standing.position >= until
            rows = _readable(views.unfinished) if caught_up else None
            if rows is not None:
                self.directory.wake(lead_stream(r["business_id"], encode(r["lead_id"])) for r in rows)
                return
            if standing is not None and standing.stopped_error:
                self.directory.wake(unfinished_leads(self.store))
                return
            self._over.wait(0.05)

    def _watch(self) -> None:
        """The guardian's round, and the leads' bedtime."""
        hosts = {"the projector": self._projector}
        if self._outbox is not None:
            hosts["the outbox"] = self._outbox
        alive = {"the pool": self.dispatcher.alive, "the scheduler": self.scheduler.alive}
        alive |= {part: host.alive for part, host in hosts.items()}
        how_ended = {part: host.how_ended for part, host in hosts.items()}
        every = self.settings.leads.idle_seconds / 2
        next_sweep = time.monotonic() + every
        while not self._over.wait(_WATCH_SECONDS):
            self.guardian.check(alive, how_ended)
            self._lock.tell_hanging(whose_code_hangs(self.guardian, self._breakers))
            if time.monotonic() >= next_sweep:
                self.directory.sweep()
                next_sweep = time.monotonic() + every

    def _serve_metrics(self) -> None:
        server = collector.serve(
            wiring.views_path(self.settings), self.settings.http_port, self.gauges, self.store.last_position
        )
        self.http_url = server.url
        self._lock.tell(Owner(os.getpid(), "working", self._clock.now(), metrics=server.url))
        self._closers.append(server.stop)

    def _start_thread(self, name: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except Exception as error:  # a thread of ours must not die unseen
                self.guardian.died(name, error)

        threading.Thread(target=guarded, name=name, daemon=True).start()

    def _tell(self, address: str, message: Any) -> None:
        self.directory.tell(address, message)

    def _close(self) -> None:
        self._over.set()
        while self._closers:
            self._closers.pop()()


def _readable(read: Callable[[], T]) -> T | None:
    """What is read of the views; None while the projector makes them, also where they vanish between two looks."""
    try:
        return read()
    except LeadlineError:
        return None


def main() -> None:
    """The command line."""
    from cli.app import main as command_line  # noqa: PLC0415  # the one arrow up, for `python runner.py`

    command_line()


if __name__ == "__main__":
    main()
