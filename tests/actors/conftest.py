"""What the tests of the actors share: processes that are begun, killed and begun again on one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.actors_system import Boot, booting


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Boot]:
    with booting(tmp_path) as start:
        yield start
