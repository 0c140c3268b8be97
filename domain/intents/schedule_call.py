"""SCHEDULE_CALL: sales calls back; a reviewer looks too where the AI was not sure."""

from __future__ import annotations

from domain.events import MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan

CALL_BACK = "Thank you. We will call you back to arrange a time."


def plan(_message: MessageReceived, band: Band) -> Plan:
    if band == "medium":
        return Plan(("notify_sales", "flag_for_review"), CALL_BACK, escalate=True)
    return Plan(("notify_sales",), CALL_BACK)


HANDLER = IntentHandler("SCHEDULE_CALL", plan)
