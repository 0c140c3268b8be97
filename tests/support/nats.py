"""A real nats-server from its wheel, on a free port, over a store folder of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.nats_server import CONF, NatsServer


class TestServer:
    """A server that tests may restart, kill, stop and continue; its port stays the same over restarts."""

    __test__ = False

    def __init__(self, folder: Path, *, quick: bool = True, conf: Path = CONF) -> None:
        """`quick` confirms before the disk has it: eight times faster, and as good while no power is cut."""
        self.store = folder / "jetstream"
        folder.mkdir(parents=True, exist_ok=True)
        self._conf = _quicker(conf, folder) if quick else conf
        self._server = NatsServer(self.store, conf=self._conf)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def monitor_url(self) -> str:
        return self._server.monitor_url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self) -> None:
        """Returns when it is ready; after a first start, on the same ports."""
        port = self.port if self.url else 0
        http_port = int(self.monitor_url.rsplit(":", 1)[1]) if self.monitor_url else 0
        self._server = NatsServer(self.store, port=port, http_port=http_port, conf=self._conf)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self._server.kill()

    def restart(self, *, kill: bool = False) -> None:
        self.kill() if kill else self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def running_server(folder: Path, *, quick: bool = True, conf: Path = CONF) -> Iterator[TestServer]:
    """A started server, ended at the end."""
    server = TestServer(folder, quick=quick, conf=conf)
    server.start()
    try:
        yield server
    finally:
        if server._server.alive():
            server.resume()
        server.kill()


def _quicker(conf: Path, folder: Path) -> Path:
    quick = folder / "nats.conf"
    quick.write_text(conf.read_text().replace("sync_interval: always", 'sync_interval: "2m"'))
    return quick
