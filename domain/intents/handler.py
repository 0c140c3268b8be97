"""What an intent handler is: its intent, its priority, and what it plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from domain.events import MessageReceived

Band = Literal["high", "medium", "low"]


class Plan(Struct, frozen=True):
    """What is to be done for a message.

    `response` is the text for the lead where the AI suggested none; `asks` is added to either.
    """

    actions: tuple[str, ...]
    response: str
    escalate: bool = False
    asks: str = ""


class IntentHandler(Struct, frozen=True):
    """One intent's rules. `plan` is pure: message and band of confidence in, plan out.

    Of several handlers for one intent the one with the highest priority serves; the built-in ones have 0.
    """

    intent: str
    plan: Callable[[MessageReceived, Band], Plan]
    priority: int = 0
