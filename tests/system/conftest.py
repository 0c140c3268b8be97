"""A NATS server of a test's own, and a Leadline over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nats import TestServer, running_server
from tests.support.system_leadline import SHORT_WAITS, TENANTS, Leadline, leadline


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestServer]:
    with running_server(tmp_path / "nats") as started:
        yield started


@pytest.fixture
def house(tmp_path: Path, server: TestServer) -> Iterator[Leadline]:
    """A Leadline whose NATS runs; nothing else does yet."""
    with leadline(tmp_path / "house", url=server.url, settings=TENANTS + SHORT_WAITS) as made:
        yield made
