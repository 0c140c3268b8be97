"""A NATS stream that is not the one it was."""

from __future__ import annotations

import shutil

from tests.support.system_leadline import Leadline
from tests.support.system_wire import message


def with_older_stream(house: Leadline, kept: int, handled: int) -> None:
    """`m-0`, `m-1`, … are handled, so many; the stream that is left holds the first `kept` of them. Nothing runs."""
    older = house.folder / "older"
    up = house.up()
    house.publish([message(f"m-{n}") for n in range(kept)])
    house.wait_idle()
    assert up.terminate() == 0
    shutil.copytree(house.data / "jetstream", older)
    up = house.up()
    house.publish([message(f"m-{n}") for n in range(kept, handled)])
    house.wait_idle()
    assert up.terminate() == 0
    shutil.rmtree(house.data / "jetstream")
    older.rename(house.data / "jetstream")
