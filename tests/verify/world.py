"""One round's world: its folder, NATS behind a proxy, the runner, and what was done to them."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from actors import jetstream, stream
from actors.connection import connect
from actors.stream import OUT_STREAM, OutLimits
from tests.support.nats import TestServer, running_server
from tests.support.proxy import Proxy, proxy_before
from tests.support.system_leadline import Leadline, Running, clean_environment
from tests.support.system_sql import count_events
from tests.verify import evidence, invariants
from tests.verify.evidence import Confirmed, Evidence
from tests.verify.inside import CONTROL, Asked

#: A start, a stop or an orderly end takes no longer, however busy the machine is.
PATIENCE = 60.0


class House(Leadline):
    """A Leadline whose processes have the seams for faults."""

    def _command(self, words: Sequence[str]) -> list[str]:
        common = ["--data", "data", *(["--nats", self.url] if self.url else [])]
        return [sys.executable, "-m", "tests.verify.run_with_faults", *common, *words]


class World:
    """What faults act on. The faults, the publisher and the people are of different threads: what they share
    (`tally`, `confirmed`, `violated`) is only ever added to."""

    def __init__(
        self, folder: Path, seed: int, server: TestServer, proxy: Proxy, businesses: dict[str, str]
    ) -> None:
        self.folder = folder
        self.dice = random.Random(f"{seed}/faults")
        self.seed = seed
        self.server = server
        self.proxy = proxy
        self.businesses = businesses
        self.house = House(folder / "house", url=proxy.url)
        self.running: Running | None = None
        #: How often what was done, and what was counted.
        self.tally: Counter[str] = Counter()
        self.confirmed: list[Confirmed] = []
        #: Sentences about what must not be.
        self.violated: list[str] = []
        self._asked = Asked()
        #: Both streams as far as they were read: nothing in them changes.
        self._log_so_far: list[evidence.Entry] = []
        self._out_so_far: list[evidence.Out] = []
        self._log = threading.Lock()
        self._began = time.monotonic()

    @property
    def data(self) -> Path:
        return self.house.data

    def note(self, text: str) -> None:
        """A line of the round's own log."""
        with self._log, (self.folder / "round.log").open("a") as file:
            file.write(f"{time.monotonic() - self._began:8.3f} {text}\n")

    def did(self, what: str) -> None:
        self.tally[what] += 1
        self.note(what)

    def violates(self, sentence: str) -> None:
        self.violated.append(sentence)
        self.note(f"VIOLATED {sentence}")

    # The runner.

    def start(self) -> bool:
        """Start it, and wait until it is ready; False where it ended before, as a fault may have had it."""
        self.running = self.house.begin("run", "--http-port", "0")
        self.tally["starts of the runner"] += 1
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self.running.said("ready"):
                self.note("ready")
                return True
            if self.running.process.poll() is not None:
                return False
            time.sleep(0.02)
        self.violates(f"the runner was not ready after {PATIENCE:g} s")
        return False

    def alive(self) -> bool:
        return self.running is not None and self.running.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, if it lives."""
        if self.running is not None and self.alive():
            self.running.kill()
            self.did("SIGKILL of the runner")

    def await_end(self, within: float) -> bool:
        """Whether the runner has ended by then."""
        until = time.monotonic() + within
        while self.alive() and time.monotonic() < until:
            time.sleep(0.01)
        return not self.alive()

    def restart(self) -> None:
        """The dead runner again, once what it left was looked at; more than once where a fault awaits the start."""
        if self.running is not None:
            self.running.kill()
        self.look_at_the_dead()
        for _ in range(5):
            if self.start():
                return
            self.note(f"ended at its start: {self.last_words()}")
            self.ask()
        self.violates(f"the runner does not start: {self.last_words()}")

    def still_runs(self) -> None:
        """After a fault that a runner must survive: it has not ended. Started again if it has."""
        if not self.alive():
            self.violates(f"the runner ended by itself: {self.last_words()}")
            self.restart()

    def signal(self, number: int, *, group: bool = False) -> None:
        assert self.running is not None
        os.killpg(self.running.pid, number) if group else os.kill(self.running.pid, number)

    def terminate(self) -> None:
        """SIGTERM: it must drain and end with 0."""
        self.signal(signal.SIGTERM)
        if not self.await_end(PATIENCE):
            self.violates(f"the runner had not drained after {PATIENCE:g} s")
        elif self.running is not None and self.running.process.returncode != 0:
            self.violates(
                f"SIGTERM ended the runner with {self.running.process.returncode}: {self.last_words()}"
            )

    def errors(self) -> str:
        """What the runner and its processes have logged."""
        return self.running.err if self.running else ""

    def last_words(self) -> str:
        return self.running.err[-2000:].strip() if self.running else ""

    # Its seams.

    def ask(self, **wanted: object) -> None:
        """From now on this is asked of every process of Leadline here; the clock stays where it is."""
        wanted.setdefault("clock", self._asked.clock)
        number = self._asked.number + 1
        self._asked = msgspec.convert({**wanted, "number": number}, Asked)
        beside = self.house.folder / f"{CONTROL}.new"
        beside.write_bytes(msgspec.json.encode(self._asked))
        beside.replace(self.house.folder / CONTROL)

    @property
    def clock(self) -> float:
        """By how many seconds Leadline's clock is ahead."""
        return self._asked.clock

    # Looking.

    def progress(self, events: int, within: float = 2.0) -> None:
        """Until so many events more are recorded, or the time is up: a fault falls into work wherever it can."""
        until, wanted = time.monotonic() + within, count_events(self.data) + events
        while count_events(self.data) < wanted and time.monotonic() < until:
            time.sleep(0.005)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def look_at_the_dead(self) -> None:
        """Nothing runs: what holds at every moment must hold of what is on the disk."""
        found = evidence.gather_events(self.data, self.businesses, self.house.folder)
        url, log, out = self.server.url, self._log_so_far, self._out_so_far
        log += evidence.read_log(url, after=log[-1].sequence if log else 0)
        out += evidence.read_out(url, after=out[-1].sequence if out else 0)
        found.log, found.out = list(log), list(out)
        self.judge(found, invariants.ALWAYS)
        self.tally["looks at what a dead runner left"] += 1

    def judge(self, found: Evidence, which: Iterable[invariants.Invariant]) -> None:
        for sentence in invariants.violations(found, which):
            self.violates(sentence)


@contextmanager
def made(folder: Path, seed: int, settings: str, businesses: dict[str, str]) -> Iterator[World]:
    """A world whose NATS runs and has the stream; nothing else does. All of its processes are ended at the end."""
    with (
        running_server(
            folder / "nats", quick=False
        ) as server,  # a killed server that syncs late loses what it said
        proxy_before(server.port) as proxy,
    ):
        world = World(folder, seed, server, proxy, businesses)
        world.house.set(settings)
        _ensure_streams(server.url)
        try:
            yield world
        finally:
            world.house.end_all()


def _ensure_streams(url: str) -> None:
    import asyncio  # noqa: PLC0415

    async def ensure() -> None:
        client = await connect(url, name="verify", reconnect=False)
        try:
            await stream.ensure(client)
            # JetStream is to recognise no repeat: what is out once is so by the outbox's own doing.
            forgets = stream.out_configuration(OutLimits()) | {"duplicate_window": 100_000_000}
            await jetstream.call(client, f"STREAM.CREATE.{OUT_STREAM}", forgets)
        finally:
            await client.close()

    asyncio.run(ensure())


def patiently(holds: Callable[[], bool], within: float, every: float = 0.05) -> bool:
    """Whether it holds before the time is up."""
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(every)
    return True


__all__ = ["House", "World", "clean_environment", "made", "patiently"]
