"""A publisher that speaks NATS's protocol by hand, and can therefore send what no client library would."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


class RawPublisher:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._wire = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)
        self._reader = self._wire.makefile("rb")
        self._reader.readline()
        options = {"headers": True, "verbose": False, "pedantic": False, "lang": "by hand", "version": "0"}
        self._wire.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        self.flush()

    def publish(self, subject: bytes, body: bytes, headers: bytes = b"") -> None:
        """`headers` is the whole block, `NATS/1.0…\\r\\n\\r\\n`, or what the test takes for one."""
        if headers:
            sizes = b"%d %d" % (len(headers), len(headers) + len(body))
            self._wire.sendall(b"HPUB " + subject + b" " + sizes + b"\r\n" + headers + body + b"\r\n")
        else:
            self._wire.sendall(b"PUB " + subject + b" %d\r\n" % len(body) + body + b"\r\n")

    def flush(self) -> list[bytes]:
        """Everything sent has reached the server; what it said meanwhile."""
        self._wire.sendall(b"PING\r\n")
        said: list[bytes] = []
        while (line := self._reader.readline().strip()) != b"PONG":
            if not line:
                raise ConnectionError(f"the server closed the connection: {said}")
            said.append(line)
        return said

    def close(self) -> None:
        self._reader.close()
        self._wire.close()


@contextmanager
def raw_publisher(url: str) -> Iterator[RawPublisher]:
    publisher = RawPublisher(url)
    try:
        yield publisher
    finally:
        publisher.close()
