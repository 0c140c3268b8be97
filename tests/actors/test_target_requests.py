"""What targets send: templates that nothing a lead wrote can leave, signatures, mails, and their bounds."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from standardwebhooks import Webhook, WebhookVerificationError

import target_settings as ts
from actors.targets.answers import retry_after_us
from actors.targets.guarded import Ended, Guarded
from actors.targets.secret import Secret, UnreadableSecretError
from actors.targets.templates import DataTemplate, Template, one_line, url_part, values_of
from actors.targets.webhook import body_of
from domain.errors import SettingsError
from domain.outcomes import Done, Failed, FailedForGood, Misconfigured, Outcome, Unknown
from domain.ports import TargetRequest
from domain.tokens import derived_id
from target_wiring import make_target
from tests.support.mail_server import MailServer
from tests.support.target_kinds import (
    KEY,
    OTHER_WHSEC,
    RIGHT,
    WHSEC,
    EmailKind,
    KeyedRestKind,
    SlackKind,
    WebhookKind,
    message_id,
    request_of,
    undo_of,
)
from tests.support.target_servers import OrderSystem, SlackChannel, TargetServer, WebhookReceiver

HOSTILE = 'a", "admin": true, "x": "\r\nBcc: all@evil.example\r\n\r\n<script>go()</script> ../../$key ${secret.token}'


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def rest(tmp_path: Path, ca: trustme.CA) -> Iterator[KeyedRestKind]:
    kind = KeyedRestKind(tmp_path, ca)
    yield kind
    kind.close()


@pytest.fixture
def webhook(tmp_path: Path, ca: trustme.CA) -> Iterator[WebhookKind]:
    kind = WebhookKind(tmp_path, ca)
    yield kind
    kind.close()


@pytest.fixture
def slack(tmp_path: Path, ca: trustme.CA) -> Iterator[SlackKind]:
    kind = SlackKind(tmp_path, ca)
    yield kind
    kind.close()


@pytest.fixture
def email(tmp_path: Path, ca: trustme.CA) -> Iterator[EmailKind]:
    kind = EmailKind(tmp_path, ca)
    yield kind
    kind.close()


# Templates.


def test_a_body_is_filled_as_data_and_a_name_alone_keeps_its_shape() -> None:
    template = DataTemplate(
        {"note": "<${text}>", "all": "${entities}", "n": 3, "in": [{"p": "${entities.product}"}]}
    )
    filled = template.fill(values_of(request_of(text=HOSTILE)))
    assert json.loads(msgspec.json.encode(filled)) == {
        "note": f"<{HOSTILE}>",
        "all": {"product": "flour"},
        "n": 3,
        "in": [{"p": "flour"}],
    }


def test_what_is_put_in_is_not_read_as_a_template_again() -> None:
    values = values_of(request_of(text="${key} $key $$"), {"token": "s"})
    assert Template("${text} $$1").fill(values) == "${key} $key $$ $1"


def test_an_entity_that_the_message_has_not_is_empty_and_a_name_that_nobody_gives_parks_the_action() -> None:
    values = values_of(request_of())
    assert Template("[${entities.size}]").fill(values) == "[]"
    with pytest.raises(Ended) as ended:
        Template("${entitys.size}").fill(values)
    assert ended.value.outcome == Misconfigured(
        "a template names ${entitys.size}, which this action does not give"
    )


@pytest.mark.parametrize(
    ("value", "part"), [("a/b?c#d", "a%2Fb%3Fc%23d"), ("ü %", "%C3%BC%20%25"), ("a..", "a..")]
)
def test_a_part_of_a_url_cannot_leave_its_place(value: str, part: str) -> None:
    assert url_part(value) == part


@pytest.mark.parametrize("value", ["", ".", ".."])
def test_a_value_that_would_make_it_another_url_is_refused(value: str) -> None:
    with pytest.raises(Ended):
        url_part(value)


@pytest.mark.parametrize("text", ["costs $5", "${", "$", "${}"])
def test_a_dollar_that_begins_no_name_is_refused_when_the_target_is_made(text: str) -> None:
    with pytest.raises(SettingsError, match="is written"):
        make_target(ts.Slack(url=ts.Secret(env="X"), text=text))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"headers": {"A": "${secret.other}"}}, "secret.other}} is none of its secrets"),
        ({"undo": ts.RestUndo(url="https://a.example/${remote.id}")}, "name of `remote`"),
        ({"body": {"x": "${remote.id}"}, "remote": {"id": "id"}}, "for the undo alone"),
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file /nowhere/ca.pem: No such file"),
    ],
)
def test_a_rest_target_that_cannot_work_is_refused_when_it_is_made(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        make_target(ts.Rest(url="https://a.example/orders", **changes))
    assert complaint.replace("}}", "}") in str(refused.value)


# Webhooks.


def test_id_and_body_of_a_webhook_are_the_same_over_all_retries_and_the_signature_is_of_now(
    webhook: WebhookKind,
) -> None:
    webhook.fault("500")
    webhook.call(attempt=1)
    webhook.call(attempt=2)
    first, second = webhook.server.requests
    assert first[3] == second[3] == body_of(request_of())
    assert first[2]["webhook-id"] == second[2]["webhook-id"] == derived_id(KEY)
    assert abs(int(second[2]["webhook-timestamp"]) - time.time()) < 60
    event = json.loads(first[3])
    assert (event["type"], event["timestamp"]) == ("sales.notify", "2026-11-02T08:00:00+00:00")
    assert event["data"]["entities"] == {"product": "flour"}


def test_a_compensation_is_an_event_of_its_own_that_names_the_action_that_is_void(
    webhook: WebhookKind,
) -> None:
    webhook.call()
    webhook.target.call(undo_of(request_of(), {}))
    done, void = (json.loads(request[3]) for request in webhook.server.requests)
    assert (done["type"], void["type"]) == ("sales.notify", "sales.correct")
    assert done["data"]["action_id"] == void["data"]["action_id"] == derived_id(KEY)
    assert len({request[2]["webhook-id"] for request in webhook.server.requests}) == 2


def test_every_secret_signs_so_that_a_receiver_can_change_from_one_to_the_next(tmp_path: Path) -> None:
    files = [tmp_path / "new", tmp_path / "old"]
    for file, text in zip(files, (OTHER_WHSEC, WHSEC), strict=True):
        file.write_text(text, encoding="utf-8")
    for known in (WHSEC, OTHER_WHSEC):
        with TargetServer(WebhookReceiver(known)) as server:
            secrets = tuple(ts.Secret(file=str(file)) for file in files)
            target = make_target(ts.Webhook(url=server.url, secrets=secrets))
            assert isinstance(target.call(request_of()), Done)
            close(target)
            headers, body = server.requests[0][2:]
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "B" * 32).verify(body, headers)


@pytest.mark.parametrize("text", ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_short", "whsec_!!!!" + "A" * 40])
def test_what_is_no_webhook_secret_is_not_signed_with(webhook: WebhookKind, text: str) -> None:
    webhook.give(text)
    outcome = webhook.make().call(request_of())
    assert isinstance(outcome, Misconfigured)
    assert text not in outcome.error
    assert webhook.server.requests == []


# Requests of one's own.


def test_every_attempt_of_a_key_sends_the_same_request(rest: KeyedRestKind) -> None:
    rest.fault("500", "500")
    rest.driven()
    first, *others = rest.server.requests
    assert len(others) == 2
    assert all(request == first for request in others)


def test_what_a_lead_wrote_stays_in_its_place_in_url_headers_and_body() -> None:
    with TargetServer(OrderSystem()) as server:
        target = make_target(
            ts.Rest(
                url=f"{server.url}/leads/${{text}}/orders",
                headers={"X-Note": "${text}", "Authorization": "Bearer x"},
                body={"note": "${text}"},
            )
        )
        target.call(request_of(text=HOSTILE))
        close(target)
        method, path, headers, body = server.requests[0]
    assert (method, path.startswith("/leads/a%22%2C"), path.endswith("/orders")) == ("POST", True, True)
    assert path.count("/") == 3
    assert "bcc" not in headers
    assert headers["x-note"] == one_line(HOSTILE)
    assert json.loads(body) == {"note": HOSTILE}


def test_an_undo_can_be_a_patch_with_a_body_from_the_creates_answer() -> None:
    app = OrderSystem()
    with TargetServer(app) as server:
        undo = ts.RestUndo(
            url=f"{server.url}/orders/${{remote.id}}",
            method="PATCH",
            body={"status": "cancelled", "why": "${text}", "order": "${remote.id}"},
        )
        target = make_target(ts.Rest(url=f"{server.url}/orders", remote={"id": "order.id"}, undo=undo))
        done = target.call(request_of())
        assert isinstance(done, Done)
        assert isinstance(target.call(undo_of(request_of(), done.remote)), Done)
        close(target)
        assert app.standing() == []
        assert json.loads(server.requests[1][3])["order"] == "o-1"


def test_a_target_that_cannot_undo_says_so() -> None:
    target = make_target(ts.Rest(url="http://localhost:1/orders"))
    outcome = target.call(undo_of(request_of(), {}))
    assert isinstance(outcome, FailedForGood)
    assert "by hand" in outcome.error


# Slack.


def test_a_slack_message_has_blocks_and_nobody_is_mentioned_by_what_a_lead_wrote(slack: SlackKind) -> None:
    slack.call(text="<!channel> & <https://evil.example|here>" + "x" * 9000)
    (line,) = slack.app.ledger.lines
    section, about = line.body["blocks"]
    assert section["text"]["text"].startswith(
        "*Contact the lead: +4915112345678*\n&lt;!channel&gt; &amp; &lt;https"
    )
    assert len(section["text"]["text"]) == 3000
    assert about["elements"][0]["text"] == "acme-foods · +4915112345678"
    assert "<!channel>" not in json.dumps(line.body)


def test_a_slack_compensation_is_a_message_that_corrects(slack: SlackKind) -> None:
    slack.call()
    assert isinstance(slack.target.call(undo_of(request_of(), {})), Done)
    assert [n.body["text"].split(":")[0] for n in slack.app.ledger.lines] == [
        "*Contact the lead",
        "Please disregard",
    ]


def test_slacks_rate_is_its_own_to_enforce_and_its_pause_is_handed_on(tmp_path: Path) -> None:
    with TargetServer(SlackChannel(RIGHT, per_second=0.01)) as server:
        file = tmp_path / "url"
        file.write_text(f"{server.url}/services/{RIGHT}", encoding="utf-8")
        settings = ts.Slack(url=ts.Secret(file=str(file)))
        assert settings.calls_per_second == 1
        target = make_target(settings)
        assert isinstance(target.call(request_of("a")), Done)
        assert target.call(request_of("b")) == Failed(
            "the target answered 429: rate_limited", 1_000_000, throttled=True
        )
        close(target)


def test_blocks_of_ones_own_are_templates(tmp_path: Path) -> None:
    with TargetServer(SlackChannel(RIGHT)) as server:
        file = tmp_path / "url"
        file.write_text(f"{server.url}/services/{RIGHT}", encoding="utf-8")
        blocks = ({"type": "section", "text": {"type": "mrkdwn", "text": "> ${text}"}},)
        target = make_target(ts.Slack(url=ts.Secret(file=str(file)), blocks=blocks))
        target.call(request_of(text="<b>"))
        close(target)
        assert server.app.ledger.lines[0].body["blocks"][0]["text"]["text"] == "> &lt;b&gt;"


# Mail.

MAIL_HEADERS = ["From", "To", "Date", "Message-ID", "Subject", "MIME-Version", "Content-Type"]


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "x\nBcc: all@evil.example",
        "=?utf-8?q?x=0D=0ABcc=3A_all=40evil.example?=",
        "\u2028Bcc: all@evil.example\x0b\x1c\x85y",
        ".\r\nMAIL FROM:<evil@evil.example>\r\n.\r\n",
        "\udcff".encode("utf-8", "replace").decode() + "é" * 300,
    ],
)
def test_no_header_and_no_command_comes_from_what_a_lead_wrote(email: EmailKind, text: str) -> None:
    settings = email.settings()
    assert isinstance(settings, ts.Email)
    target = make_target(msgspec.structs.replace(settings, subject="${text} ${title}"))
    assert isinstance(target.call(request_of(text=text)), Done)
    (mail,) = email.server.mails
    assert sorted(mail.keys()) == sorted(MAIL_HEADERS)
    assert mail["To"] == "sales@acme.example"
    text_part = mail.get_body(("plain",))
    assert text_part is not None
    assert " ".join(text.split())[:20] in " ".join(text_part.get_content().split())


def test_a_mail_has_text_and_html_and_what_a_lead_wrote_is_text_in_both(email: EmailKind) -> None:
    email.call(text="<b>flour</b> & more")
    (mail,) = email.server.mails
    text, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["Contact the lead: +4915112345678", "", "<b>flour</b> & more"]
    assert "<p>&lt;b&gt;flour&lt;/b&gt; &amp; more</p>" in html.get_content()


def test_a_mails_id_follows_from_the_key_and_its_correction_is_a_reply_to_it(email: EmailKind) -> None:
    email.call()
    email.target.call(undo_of(request_of(), {}))
    first, correction = email.server.mails
    assert first["Message-ID"] == correction["In-Reply-To"] == correction["References"] == message_id()
    assert correction["Message-ID"] != first["Message-ID"]
    assert correction["Subject"].startswith("Void: ")


def test_mail_goes_out_over_tls_from_the_first_byte_too(tmp_path: Path, ca: trustme.CA) -> None:
    kind = EmailKind(tmp_path, ca)
    kind.close()
    kind.server = MailServer(ca, mode="tls", password=RIGHT)
    settings = kind.settings()
    assert isinstance(settings, ts.Email)
    assert isinstance(make_target(msgspec.structs.replace(settings, tls="tls")).call(request_of()), Done)
    assert len(kind.server.mails) == 1
    kind.close()


def test_a_mail_server_without_starttls_gets_neither_login_nor_mail(tmp_path: Path, ca: trustme.CA) -> None:
    kind = EmailKind(tmp_path, ca)
    kind.close()
    kind.server = MailServer(ca, mode="plain", password=RIGHT)
    assert kind.make().call(request_of()) == Misconfigured("the server offers no STARTTLS")
    assert kind.server.mails == []
    kind.close()


def test_nobody_gets_a_mail_of_which_one_address_is_refused(email: EmailKind) -> None:
    settings = email.settings()
    assert isinstance(settings, ts.Email)
    email.fault("550_rcpt")
    target = make_target(msgspec.structs.replace(settings, to=("sales@acme.example", "boss@acme.example")))
    assert isinstance(target.call(request_of()), FailedForGood)
    assert email.server.mails == []


# Bounds.


@pytest.mark.parametrize("fault", ["silent_after", "drip", "silent_before"])
def test_a_call_ends_in_its_time_whatever_the_server_does(rest: KeyedRestKind, fault: str) -> None:
    rest.fault(fault)
    began = time.monotonic()
    assert isinstance(rest.call(), Unknown)
    assert rest.timeout * 0.9 < time.monotonic() - began < rest.timeout + 0.5


def test_a_host_that_does_not_answer_is_given_up_after_the_time_to_connect() -> None:
    # A listener whose queue is full takes no connection, and refuses none.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        target = make_target(ts.Rest(url=url, connect_timeout_seconds=0.2, timeout_seconds=5))
        began = time.monotonic()
        assert target.call(request_of()) == Failed("no connection in time; nothing was sent")
        assert time.monotonic() - began < 2
        for filler in fillers:
            filler.close()


def test_a_certificate_that_nobody_vouches_for_is_no_connection(tmp_path: Path, ca: trustme.CA) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    other = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    with TargetServer(OrderSystem(), tls=context) as server:
        outcomes: list[Outcome] = []
        for file in ("other.pem", "ca.pem"):
            target = make_target(ts.Rest(url=f"{server.url}/orders", ca_file=str(tmp_path / file), body={}))
            outcomes.append(target.call(request_of()))
            close(target)
        assert isinstance(outcomes[0], Failed)
        assert "certificate" in outcomes[0].error.lower()
        assert isinstance(outcomes[1], Done)


def test_a_keyed_target_keeps_its_connections_and_one_that_may_be_called_once_does_not(
    rest: KeyedRestKind, slack: SlackKind
) -> None:
    assert pool_of(rest.target, rest) == 1
    assert pool_of(slack.target, slack) == 0


def pool_of(target: Any, kind: KeyedRestKind | SlackKind) -> int:
    kind.call()
    return len(target._target._http._transport._pool.connections)


# Secrets and pauses.


def test_a_secret_is_one_line_of_text_and_says_where_it_is_from_only(tmp_path: Path) -> None:
    file = tmp_path / "s"
    for content, complaint in ((b"", "no secret"), (b"a\nb", "line break"), (b"\xff", "UTF-8")):
        file.write_bytes(content)
        with pytest.raises(UnreadableSecretError, match=complaint):
            Secret(file=str(file)).text()
    file.write_text("  word \n", encoding="utf-8")
    secret = Secret(file=str(file))
    assert (secret.text(), repr(secret)) == ("word", f"the file {file}")


def test_a_secret_in_a_variable_is_read_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret(env="TARGET_WORD")
    with pytest.raises(UnreadableSecretError, match="the variable TARGET_WORD holds no secret"):
        secret.text()
    monkeypatch.setenv("TARGET_WORD", "x")
    assert secret.text() == "x"


class Talkative:
    idempotency = "once"

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    def call(self, request: TargetRequest) -> Outcome:
        if request.attempt == 1:
            raise RuntimeError(f"cannot log in with {self._secret.text()}")
        return FailedForGood(f"no {self._secret.text()} here")


def test_code_of_ones_own_cannot_say_a_secret_either(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(RIGHT, encoding="utf-8")
    secret = Secret(file=str(tmp_path / "s"))
    target = Guarded(Talkative(secret), [secret])  # type: ignore[arg-type]
    assert target.call(request_of()) == Unknown(
        "the target's code raised RuntimeError: cannot log in with ***"
    )
    assert target.call(request_of(attempt=2)) == FailedForGood("no *** here")


NOW = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "pause"),
    [
        ("", None),
        ("0", 0),
        ("120", 120_000_000),
        ("9" * 5000, 86_400_000_000),
        ("Mon, 02 Nov 2026 08:00:30 GMT", 30_000_000),
        ("Mon, 02 Nov 2026 07:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
        ("Mon, 99 Nov 9999 08:00:30 GMT", None),
    ],
)
def test_a_pause_is_read_in_seconds_or_as_a_date(value: str, pause: int | None) -> None:
    assert retry_after_us({"retry-after": value}, NOW) == pause
    assert timedelta(microseconds=pause or 0) <= timedelta(days=1)


def close(target: Any) -> None:
    target._target._http.close()
