"""slack: an incoming webhook. Slack dedups nothing: *once*. A compensation is a message that corrects.

Source: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/ and its rate limits
(one message a second).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from slack_sdk.models.blocks import ContextBlock, MarkdownTextObject, SectionBlock
from slack_sdk.webhook import WebhookClient, WebhookResponse

from actors.targets.answers import refusal
from actors.targets.guarded import Ended
from actors.targets.http import Answer, Ask, Http
from actors.targets.secret import Secret
from actors.targets.templates import DataTemplate, Template, values_of, written
from domain.events import Idempotency
from domain.outcomes import Done, Misconfigured, Outcome
from domain.ports import TargetRequest

#: Slack refuses a section whose text is longer.
_MAX_TEXT = 3000


class SlackMessage(Struct, frozen=True):
    """`text` is also what notifications show. No `blocks`: one section with the text, and whose lead it is."""

    text: Template
    blocks: DataTemplate | None


class SlackTarget:
    """What a lead wrote is text in it: no mention, no link."""

    idempotency: Idempotency = "once"

    def __init__(self, http: Http, url: Secret, message: SlackMessage, correction: SlackMessage) -> None:
        self._http = http
        self._url = url
        self._message = message
        self._correction = correction

    def call(self, request: TargetRequest) -> Outcome:
        message = self._correction if request.undo else self._message
        values = values_of(request)
        text = _clipped(message.text.fill(values, _plain))
        blocks: Sequence[Any]
        if message.blocks is not None:
            blocks = _clipped_all(message.blocks.fill(values, _plain))
        else:
            about = f"{_plain(request.business_id)} · {_plain(request.lead_id)}"
            blocks = [
                SectionBlock(text=MarkdownTextObject(text=text)),
                ContextBlock(elements=[MarkdownTextObject(text=about)]),
            ]
        client = _Client(self._url.text(), self._http)
        client.send(text=text, blocks=blocks)
        return _judged(client.answer)


class _Client(WebhookClient):
    """The library's client on our wire: its own sends again after a reset, follows redirects, reads without
    end, and logs the url, which is the secret."""

    def __init__(self, url: str, http: Http) -> None:
        if not url.startswith(("https://", "http://")):
            raise Ended(Misconfigured("the secret url begins with neither https:// nor http://"))
        super().__init__(url, retry_handlers=[])
        self._http = http
        self.answer = Answer(0, {}, b"", whole=False)

    def _perform_http_request(self, *, body: dict[str, Any], headers: dict[str, str]) -> WebhookResponse:
        sent = {"Content-Type": "application/json;charset=utf-8"}
        with written("a message"):
            encoded = msgspec.json.encode(body)
        self.answer = self._http.send(Ask("POST", self.url, sent, encoded))
        text = self.answer.body.decode(errors="replace")
        return WebhookResponse(
            url="", status_code=self.answer.status, body=text, headers=dict(self.answer.headers)
        )


def _judged(answer: Answer) -> Outcome:
    if answer.status == 404:  # the webhook, its channel or its team is no more
        return Misconfigured(f"Slack knows no such webhook: {answer.body[:100].decode(errors='replace')}")
    return refusal(answer, keyed=False) or Done()


def _plain(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clipped(text: str) -> str:
    """Within Slack's limit, without half an entity at its end."""
    if len(text) <= _MAX_TEXT:
        return text
    return re.sub(r"&[a-z]{0,3}$", "", text[: _MAX_TEXT - 1]) + "…"


def _clipped_all(blocks: Any) -> Any:
    match blocks:
        case str():
            return _clipped(blocks)
        case Mapping():
            return {name: _clipped_all(inner) for name, inner in blocks.items()}
        case list():
            return [_clipped_all(inner) for inner in blocks]
    return blocks
