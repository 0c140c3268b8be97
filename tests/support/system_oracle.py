"""What must come of a message, read off the design's two tables and computed without Leadline's own rules."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"
HIGH, LOW = 0.80, 0.50
#: The corpus is older than WhatsApp's window: each of its replies would be a task more, on any day but its own.
NO_REPLIES = "\n[outbox]\nreplies = false\n"

Key = tuple[str, str, str]


class ExpectedTask(NamedTuple):
    """One row of `tasks`, but for its times and ids."""

    task_type: str
    assigned_to_type: str
    assigned_to_id: str
    priority: str
    due_hours: int


class ExpectedMessage(NamedTuple):
    """What a message's own fields lead to. `response` None: the handler's own text, whatever it is."""

    tasks: tuple[ExpectedTask, ...]
    entities: dict[str, str]
    response: str | None
    asks_for_product: bool


SALES = ExpectedTask("sales_notification", "team", "sales", "normal", 24)
ORDER = ExpectedTask("order_processing", "team", "orders", "high", 4)
TICKET = ExpectedTask("support_ticket", "team", "support", "high", 2)
REVIEW = ExpectedTask("lead_review", "role", "reviewer", "low", 24)

#: Intent → tasks at or above `HIGH`, and between `LOW` and `HIGH`.
TABLE = {
    "ORDER_REQUEST": ((ORDER, SALES), (SALES, REVIEW)),
    "PRICING_INQUIRY": ((SALES,), (SALES,)),
    "AVAILABILITY_INQUIRY": ((SALES,), (SALES,)),
    "COMPLAINT": ((TICKET, SALES._replace(priority="high")), (TICKET, REVIEW)),
    "SCHEDULE_CALL": ((SALES,), (SALES, REVIEW)),
    "UNKNOWN": ((), (REVIEW,)),
}


def key_of(message: dict[str, Any]) -> Key:
    """What a message id means: it is one lead's, of one business."""
    return message["business_id"], message["lead_id"], message["message_id"]


def expected(message: dict[str, Any]) -> ExpectedMessage:
    entities = {name: value for name, value in message.get("entities", {}).items() if value != ""}
    intent, confidence = message["intent"], message["confidence"]
    asks = False
    if confidence < LOW or intent not in TABLE:
        tasks: tuple[ExpectedTask, ...] = (REVIEW,)
    elif confidence < HIGH:
        tasks = TABLE[intent][1]
    elif intent == "ORDER_REQUEST" and "product" not in entities:
        tasks, asks = (SALES,), True
    else:
        tasks = TABLE[intent][0]
    return ExpectedMessage(tasks, entities, message.get("suggested_response"), asks)


def corpus_lines() -> list[bytes]:
    """The corpus, a message a line, in the order of its arrival."""
    return (CORPUS / "messages.jsonl").read_bytes().splitlines()


def first_of_each(lines: Iterable[bytes]) -> dict[Key, dict[str, Any]]:
    """Each message as it came first, in that order."""
    found: dict[Key, dict[str, Any]] = {}
    for message in map(json.loads, lines):
        found.setdefault(key_of(message), message)
    return found


def differences(lines: Sequence[bytes], tasks: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A sentence for each message whose rows in `tasks` are not what the design says."""
    rows: dict[Key, list[dict[str, Any]]] = {}
    for row in tasks:
        rows.setdefault((row["business_id"], row["lead_id"], row["message_id"]), []).append(row)
    messages = first_of_each(lines)
    for stray in rows.keys() - messages.keys():
        yield f"{stray}: tasks of a message that nobody sent"
    for key, message in messages.items():
        yield from _wrong_with(message, rows.get(key, []))


def _wrong_with(message: dict[str, Any], rows: list[dict[str, Any]]) -> Iterator[str]:
    wanted = expected(message)
    got = sorted(_shape(row) for row in rows)
    if got != sorted(wanted.tasks):
        yield f"{message}: {sorted(wanted.tasks)} expected, {got} found"
    for row in rows:
        metadata = json.loads(row["metadata"])
        if metadata["entities"] != wanted.entities:
            yield f"{message}: entities {metadata['entities']}"
        if (metadata["intent"], metadata["confidence"]) != (message["intent"], message["confidence"]):
            yield f"{message}: intent and confidence {metadata}"
        if row["status"] != "pending" or row["description"] != message.get("text", ""):
            yield f"{message}: {row}"
        yield from _wrong_response(message, wanted, metadata["response"])


def _wrong_response(message: dict[str, Any], wanted: ExpectedMessage, response: str) -> Iterator[str]:
    if not response or (wanted.asks_for_product and "product" not in response):
        yield f"{message}: response {response!r}"
    own = response[: len(wanted.response or "")] if wanted.asks_for_product else response
    if wanted.response and own != wanted.response:
        yield f"{message}: response {response!r}, not the AI's"


def _shape(row: dict[str, Any]) -> ExpectedTask:
    return ExpectedTask(
        row["task_type"],
        row["assigned_to_type"],
        row["assigned_to_id"],
        row["priority"],
        round(_hours(row["created_at"], row["due_date"])),
    )


def _hours(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds() / 3600
