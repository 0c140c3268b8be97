"""AVAILABILITY_INQUIRY: sales answers."""

from __future__ import annotations

from domain.events import MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan


def plan(_message: MessageReceived, _band: Band) -> Plan:
    return Plan(("notify_sales",), "Thank you for asking. We are checking and will tell you shortly.")


HANDLER = IntentHandler("AVAILABILITY_INQUIRY", plan)
