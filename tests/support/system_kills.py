"""Kills at random moments of the work: the moments are numbers of events, so that they fall into it on any machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, NamedTuple

from tests.support.eventually import eventually
from tests.support.nats import TestServer
from tests.support.system_leadline import PATIENCE, Leadline, Running
from tests.support.system_sql import count_events

Victim = Literal["runner", "nats", "both"]


class Kill(NamedTuple):
    """Who is killed once so many events are recorded."""

    at: int
    victim: Victim


def plan_kills(seed: int, number: int, events: int) -> list[Kill]:
    """Random moments within the first nine tenths of the work, in order; every victim is among three kills."""
    dice = random.Random(seed)
    victims: list[Victim] = ["runner", "nats", "both"] * (number // 3 + 1)
    dice.shuffle(victims)
    moments = sorted(dice.sample(range(1, events * 9 // 10), number))
    return [Kill(at, victim) for at, victim in zip(moments, victims, strict=False)]


class Killer:
    """Kills runner and server as planned, and starts again what it killed."""

    def __init__(self, house: Leadline, server: TestServer, begin: Callable[[], Running]) -> None:
        self._house = house
        self._server = server
        self._begin = begin
        self.running = begin()
        #: How many events were recorded when each kill fell.
        self.fell_at: list[int] = []

    def carry_out(self, kills: list[Kill]) -> None:
        for kill in kills:
            eventually(lambda at=kill.at: count_events(self._house.data) >= at, within=PATIENCE, every=0.002)  # type: ignore[misc]
            self._kill(kill.victim)
            self.fell_at.append(count_events(self._house.data))
            self._start_again(kill.victim)

    def _kill(self, victim: Victim) -> None:
        if victim in ("nats", "both"):
            self._server.kill()
        if victim in ("runner", "both"):
            self.running.kill()

    def _start_again(self, victim: Victim) -> None:
        if victim in ("nats", "both"):
            self._server.start()
        if victim in ("runner", "both"):
            self.running = self._begin()
