"""The order of the tests: what takes longest begins first, so that no worker is left alone with it at the end."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with whole processes before all others; within each part as they stand."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/system/"))
