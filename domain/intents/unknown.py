"""UNKNOWN: small talk needs nobody; what the AI was unsure of, or nobody registered, needs a reviewer."""

from __future__ import annotations

from domain.events import MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan


def plan(_message: MessageReceived, band: Band) -> Plan:
    if band == "high":
        return Plan((), "Thank you for your message.")
    return Plan(("flag_for_review",), "Thank you. A colleague will read your message.", escalate=True)


HANDLER = IntentHandler("UNKNOWN", plan)
