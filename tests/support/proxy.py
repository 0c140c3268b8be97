"""A loopback proxy between a NATS client and its server, which can cut the wire or lose a message on it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Told each frame from the server (its line, and its payload if it has one); True loses it.
Loses = Callable[[bytes], bool]


class Proxy:
    """Listens on a free port; every connection is forwarded to `target`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wires: list[socket.socket] = []
        self._every: int | None = None
        self._left = 0
        self._up_left: int | None = None
        self.loses: Loses = lambda _frame: False
        #: Seconds that each frame from the server takes longer.
        self.delay = 0.0
        #: Connections that were made, and that were cut.
        self.connections = 0
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut_every(self, size: int | None) -> None:
        """From now on cut every connection when so many bytes more have come, in the middle of what comes; None
        ends it."""
        self._every, self._left = size, size or 0

    def cut_after_sending(self, size: int) -> None:
        """Cut every connection once, when the server has got so many bytes more."""
        self._up_left = size

    def cut(self) -> None:
        """Cut every connection now."""
        wires, self._wires = self._wires, []
        self.cuts += 1
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self._wires += [client, server]
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(65536):
                if self._up_left is None or len(chunk) < self._up_left:
                    server.sendall(chunk)
                    self._up_left = self._up_left and self._up_left - len(chunk)
                else:
                    server.sendall(chunk[: self._up_left])
                    self._up_left = None
                    self.cut()
        for wire in (client, server):
            wire.close()

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            for frame in _frames(server):
                if self.loses(frame):
                    continue
                if self.delay:
                    time.sleep(self.delay)
                self._left -= len(frame)
                if self._every is not None and self._left < 0:
                    client.sendall(frame[: len(frame) // 2])
                    self._left = self._every
                    self.cut()
                    break
                client.sendall(frame)
        for wire in (client, server):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()


@contextmanager
def proxy_before(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


def _frames(server: socket.socket) -> Iterator[bytes]:
    reader = server.makefile("rb")
    while line := reader.readline():
        if line.startswith((b"MSG ", b"HMSG ")):
            line += reader.read(int(line.rsplit(b" ", 1)[1]) + 2)
        yield line
