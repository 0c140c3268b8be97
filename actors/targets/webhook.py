"""webhook: Standard Webhooks 1.0.0, signed. The receiver drops a `webhook-id` that it has seen: *keyed*.

Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from standardwebhooks import Webhook

from actors.targets.answers import refusal
from actors.targets.guarded import Ended
from actors.targets.http import Ask, Http
from actors.targets.secret import Secret
from actors.targets.templates import action_id, written
from domain.events import Idempotency
from domain.outcomes import Done, Failed, Misconfigured, Outcome
from domain.ports import TargetRequest
from domain.tokens import derived_id

_PREFIX = "whsec_"
_encoder = msgspec.json.Encoder(order="sorted")


def _now() -> datetime:
    return datetime.now(UTC)


class WebhookTarget:
    """Posts `{type, timestamp, data}`: id and body are the same over all retries, the signature is of now.

    Each of the secrets signs, so that the receiver can change over from one to the next.
    """

    idempotency: Idempotency = "keyed"

    def __init__(
        self, http: Http, url: str, secrets: Sequence[Secret], now: Callable[[], datetime] = _now
    ) -> None:
        self._http = http
        self._url = url
        self._secrets = secrets
        self._now = now

    def call(self, request: TargetRequest) -> Outcome:
        with written("an event"):
            body = body_of(request)
        now = self._now()
        webhook_id = derived_id(request.key)
        signatures = [signer(s).sign(webhook_id, now, body.decode()) for s in self._secrets]
        headers = {
            "Content-Type": "application/json",
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
        answer = self._http.send(Ask("POST", self._url, headers, body))
        if 300 <= answer.status < 400:
            return Failed(f"the target answered {answer.status}: a webhook is not redirected")
        return refusal(answer, keyed=True) or Done({"webhook_id": webhook_id})


def body_of(request: TargetRequest) -> bytes:
    """`timestamp` is when the message was recorded; `data.action_id` names the action, also where it is void."""
    data: dict[str, object] = {
        **request.fields,
        "action_id": action_id(request),
        "business_id": request.business_id,
        "lead_id": request.lead_id,
        "title": request.title,
    }
    return _encoder.encode({"type": request.kind, "timestamp": request.received.isoformat(), "data": data})


def signer(secret: Secret) -> Webhook:
    """The library takes any text for base64; a secret that it would misread is refused. Raises `Ended`, and
    `UnreadableSecretError`."""
    text = secret.text()
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not text.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise Ended(Misconfigured(f"{secret!r} holds no whsec_ and base64 of 24 to 64 bytes"))
    return Webhook(text)
