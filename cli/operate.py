"""`up` and `run`: start Leadline in this terminal, and end it in an orderly way.

The first SIGINT or SIGTERM drains, a second one ends the process at once, which is safe too.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FrameType

import msgspec
import typer

import runner
from actors.connection import shown
from actors.nats_server import NatsServer
from actors.ownership import DataFolderLock, Owner
from cli import logs, options
from cli.output import note, say
from cli.shell import FAILED, settings_of
from cli.status import has_stopped, look
from domain.errors import LeadlineError
from projections.host import SetUp
from runner import System
from settings import Settings

LOOK_SECONDS = 0.2


def up(
    ctx: typer.Context,
    *,
    until_idle: options.UntilIdle = False,
    nats_port: options.NatsPort = None,
    http_port: options.HttpPort = None,
    verbose: options.Verbose = False,
) -> None:
    """NATS and Leadline in this terminal. Ctrl-C ends both."""
    set_up = partial(logs.configure, verbose=verbose)
    set_up()
    settings = settings_of(ctx, nats__port=nats_port, http_port=http_port)
    with stop_asked() as stop, started_with_nats(settings, set_up) as (system, server):
        say(f"nats     {shown(system.settings.nats.url)}")
        serve(system, stop, until_idle=until_idle, also_alive=server.alive)


def run(
    ctx: typer.Context,
    *,
    until_idle: options.UntilIdle = False,
    http_port: options.HttpPort = None,
    verbose: options.Verbose = False,
) -> None:
    """Leadline against a NATS that is already there. Ctrl-C ends it."""
    set_up = partial(logs.configure, verbose=verbose)
    set_up()
    settings = settings_of(ctx, http_port=http_port)
    with stop_asked() as stop, owned(settings) as owner, started(settings, owner, set_up) as system:
        serve(system, stop, until_idle=until_idle)


def _warn_of_strangers(settings: Settings) -> None:
    """Settings without a business, as where their file was not found, take every message for a stranger's."""
    if not settings.tenants().businesses:
        note(
            "no business is in the settings: every message will be a dead letter;"
            " name them in leadline.toml: [tenants.acme] businesses = [...]"
        )


def serve(
    system: System,
    stop: threading.Event,
    *,
    until_idle: bool = False,
    also_alive: Callable[[], bool] = lambda: True,
) -> None:
    """Until a signal asks to stop, a part has died (exit 1), or nothing is left to do where that is asked for."""
    _warn_of_strangers(system.settings)
    say(f"metrics  {system.http_url}")
    say(f"ready    data in {system.settings.data}; Ctrl-C ends it")
    while not stop.wait(LOOK_SECONDS):
        if system.wait(0):
            raise LeadlineError(f"{system.guardian.cause}; everything recorded is safe, start it again")
        if not also_alive():
            raise LeadlineError(
                "nats-server has ended by itself; everything confirmed is safe, start `leadline up` again"
            )
        if until_idle and is_idle(system.settings):
            say("idle     nothing is left to do")
            return
    say("stopping drains what is in flight; a second signal ends it at once")


def is_idle(settings: Settings) -> bool:
    """Whether nothing is left to do, asked from outside. Raises `LeadlineError` where something has stopped."""
    try:
        seen = look(settings)
    except LeadlineError:
        return False  # the views are only being made
    stopped = has_stopped(seen)
    if stopped is not None:
        raise LeadlineError(f"it will not become idle, {stopped}")
    return not seen.open


@contextmanager
def owned(settings: Settings) -> Iterator[DataFolderLock]:
    """The data folder's lock, for as long as anything of ours works on it. Waits for an owner that drains."""
    owner = runner.own_data_folder(settings, on_wait=_tell_wait)
    try:
        yield owner
    finally:
        owner.release()


def _tell_wait(owner: Owner) -> None:
    waited = ", ".join(owner.waiting_for) or "its last checkpoint"
    note(f"waiting for process {owner.pid}, which drains: {waited}")


@contextmanager
def started(settings: Settings, owner: DataFolderLock, set_up: SetUp = logs.configure) -> Iterator[System]:
    """A started system, drained at the end. `set_up` is for its processes."""
    with ExitStack() as stack:
        system = runner.build(settings, owner=owner, set_up=set_up)
        system.start()
        stack.callback(system.stop)
        yield system


@contextmanager
def started_with_nats(
    settings: Settings, set_up: SetUp = logs.configure
) -> Iterator[tuple[System, NatsServer]]:
    """A started system on a NATS server of its own; its settings know the server's address."""
    with ExitStack() as stack:
        # First, and released last: whoever owns the folder owns the server's store in it.
        owner = stack.enter_context(owned(settings))
        server = NatsServer(settings.data / "jetstream", port=settings.nats.port)
        server.start()
        stack.callback(server.stop)
        nats = msgspec.structs.replace(settings.nats, url=server.url)
        system = stack.enter_context(started(msgspec.structs.replace(settings, nats=nats), owner, set_up))
        yield system, server


@contextmanager
def stop_asked() -> Iterator[threading.Event]:
    """An event that the first signal sets; the second ends the process at once."""
    asked = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            os._exit(FAILED)
        asked.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
