"""ORDER_REQUEST: an order where the product is known, a question where it is not."""

from __future__ import annotations

from domain.events import MessageReceived
from domain.intents.handler import Band, IntentHandler, Plan

THANKS = "Thank you for your order. We are on it."
UNSURE = "Thank you. A colleague will look at your order and come back to you."
ASK_PRODUCT = "Which product would you like to order?"


def plan(message: MessageReceived, band: Band) -> Plan:
    if band == "medium":
        return Plan(("notify_sales", "flag_for_review"), UNSURE, escalate=True)
    if not message.entities.get("product"):
        return Plan(("notify_sales",), "Thank you.", asks=ASK_PRODUCT)
    return Plan(("create_order", "notify_sales"), THANKS)


HANDLER = IntentHandler("ORDER_REQUEST", plan)
