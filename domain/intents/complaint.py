"""COMPLAINT: a ticket, and a person who knows of it, however sure the AI was."""

from __future__ import annotations

from domain.events import MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan

SORRY = "We are sorry to hear that. A colleague will take care of it."


def plan(_message: MessageReceived, band: Band) -> Plan:
    second = "flag_for_review" if band == "medium" else "notify_sales"
    return Plan(("create_support_ticket", second), SORRY, escalate=True)


HANDLER = IntentHandler("COMPLAINT", plan)
