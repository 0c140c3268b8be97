"""What `doctor` says of targets, over real servers, files and variables; and that it calls none of them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from actors.ownership import DataFolderLock, Owner
from actors.targets.knock import Door, Knock
from cli import target_health
from cli.finding import Finding
from settings import load
from tests.support.mail_server import MailServer
from tests.support.target_servers import OrderSystem, TargetServer, WebhookReceiver

WHSEC = "whsec_" + "UmlnaHRSaWdodFJpZ2h0UmlnaHRSaWdo"


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(tmp_path: Path, ca: trustme.CA) -> Path:
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@pytest.fixture
def orders() -> Iterator[TargetServer]:
    with TargetServer(OrderSystem()) as server:
        yield server


def served(ca: trustme.CA, **options: object) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost", **options).configure_cert(context)  # type: ignore[arg-type]
    return context


def findings(folder: Path, targets: str) -> list[Finding]:
    file = folder / "leadline.toml"
    file.write_text(f'[tenants.acme]\nbusinesses = ["acme-deli"]\n{targets}', encoding="utf-8")
    settings = load(file, env={}, overrides={"data": str(folder / "data")})
    return list(target_health.look_at_targets(settings))


def only(folder: Path, targets: str) -> Finding:
    [found] = findings(folder, targets)
    return found


def rest(url: str, more: str = "") -> str:
    return f'[targets.create_order]\nkind = "rest"\nurl = "{url}/orders"\n{more}'


def slack(file: Path) -> str:
    return f'[targets.notify_sales]\nkind = "slack"\nurl = {{ file = "{file}" }}\n'


def mail(port: int, ca_file: Path, tls: str = "starttls") -> str:
    return (
        f'[targets.notify_sales]\nkind = "email"\nhost = "localhost"\nport = {port}\ntls = "{tls}"\n'
        f'ca_file = "{ca_file}"\nsender = "a@example.com"\nto = ["b@example.com"]\n'
    )


def test_a_target_that_is_there_is_good_and_was_asked_for_nothing(
    tmp_path: Path, orders: TargetServer
) -> None:
    found = only(tmp_path, rest(orders.url))
    assert found.state == "good"
    assert found.found == f"create_order: rest, at localhost:{orders.url.rpartition(':')[2]}"
    assert orders.requests == []


def test_a_target_that_cannot_be_reached_is_bad_and_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    refused = only(tmp_path, rest(f"http://127.0.0.1:{port}"))
    assert (refused.state, "Connection refused" in refused.found) == ("bad", True)
    unknown = only(tmp_path, rest("http://nowhere.invalid"))
    assert (unknown.state, "nowhere.invalid cannot be resolved" in unknown.found) == ("bad", True)


def test_one_that_takes_a_connection_and_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = only(tmp_path, rest(f"https://127.0.0.1:{silent.getsockname()[1]}"))
    assert (found.state, "no answer within 3 s" in found.found) == ("bad", True)


def test_a_certificate_is_checked_as_a_call_would(tmp_path: Path, ca: trustme.CA, ca_file: Path) -> None:
    with TargetServer(OrderSystem(), tls=served(ca)) as server:
        assert only(tmp_path, rest(server.url, f'ca_file = "{ca_file}"\n')).state == "good"
        distrusted = only(tmp_path, rest(server.url))
        assert (distrusted.state, "certificate is not trusted" in distrusted.found) == ("bad", True)
        assert server.requests == []


def test_a_certificate_that_ends_soon_is_said_while_there_is_time(
    tmp_path: Path, ca: trustme.CA, ca_file: Path
) -> None:
    with TargetServer(
        OrderSystem(), tls=served(ca, not_after=datetime.now(UTC) + timedelta(days=3))
    ) as server:
        found = only(tmp_path, rest(server.url, f'ca_file = "{ca_file}"\n'))
    assert (found.state, "its certificate ends on" in found.found) == ("warning", True)


def test_plain_text_to_another_machine_is_a_warning() -> None:
    [found] = target_health._reached("crm", Door("crm.example", 80, "none"), Knock())
    assert (found.state, "not encrypted" in found.found) == ("warning", True)


def test_a_mail_server_is_greeted_and_no_more(tmp_path: Path, ca: trustme.CA, ca_file: Path) -> None:
    with MailServer(ca) as server:
        assert only(tmp_path, mail(server.port, ca_file)).state == "good"
        assert (server.logins, server.mails) == (0, [])
    with MailServer(ca, mode="tls") as server:
        assert only(tmp_path, mail(server.port, ca_file, "tls")).state == "good"
    with MailServer(ca, mode="plain") as server:
        found = only(tmp_path, mail(server.port, ca_file))
    assert (found.state, "offers no STARTTLS" in found.found) == ("bad", True)


def test_a_secret_that_is_missing_is_bad_where_no_runner_has_other_variables(tmp_path: Path) -> None:
    hook = '[targets.flag_for_review]\nkind = "webhook"\nurl = "{}"\nsecrets = [{{ env = "NO_SUCH_VARIABLE" }}]\n'
    with TargetServer(WebhookReceiver(WHSEC)) as server:
        missing = only(tmp_path, hook.format(server.url))
        assert (missing.subject, missing.state) == ("secret", "bad")
        assert "the variable NO_SUCH_VARIABLE holds no secret" in missing.found
        lock = DataFolderLock(tmp_path / "data")
        assert lock.acquire()
        lock.tell(Owner(7, "working", datetime.now(UTC)))
        assert only(tmp_path, hook.format(server.url)).state == "warning"
        lock.release()


def test_a_secrets_file_must_be_there_hold_what_its_kind_takes_and_be_read_by_few(
    tmp_path: Path, orders: TargetServer
) -> None:
    file = tmp_path / "secret"
    assert "cannot be read" in only(tmp_path, slack(file)).found
    file.write_text("just a word")
    file.chmod(0o600)
    assert only(tmp_path, slack(file)).found.endswith("holds no url")
    file.write_text(f"{orders.url}/services/xyz")
    good = only(tmp_path, slack(file))
    assert good.state == "good"
    assert "xyz" not in good.found
    file.chmod(0o644)
    open_to_all = only(tmp_path, slack(file))
    assert (open_to_all.state, "everybody may read" in open_to_all.found) == ("warning", True)
    assert "chmod" in open_to_all.mend


def test_a_webhooks_secret_is_read_as_its_calls_will_read_it(tmp_path: Path) -> None:
    file = tmp_path / "whsec"
    with TargetServer(WebhookReceiver(WHSEC)) as server:
        hook = f'[targets.flag_for_review]\nkind = "webhook"\nurl = "{server.url}"\nsecrets = [{{ file = "{file}" }}]\n'
        for text, state in (("whsec_short", "bad"), (WHSEC, "good")):
            file.write_text(text)
            file.chmod(0o600)
            assert only(tmp_path, hook).state == state


def test_a_class_of_ones_own_is_found_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    code = 'class Crm:\n    idempotency = "once"\n    def __init__(self, given):\n        raise RuntimeError("made")\n'
    (tmp_path / "own_crm.py").write_text(code)
    own = '[targets.create_order]\nkind = "module"\nclass = "{}"\n'
    assert only(tmp_path, own.format("own_crm:Crm")).state == "good"
    for wrong, why in (("own_crm:Nobody", "has no class"), ("not_there:Crm", "cannot be imported")):
        found = only(tmp_path, own.format(wrong))
        assert (found.state, why in found.found) == ("bad", True)


def test_settings_with_which_no_runner_would_start_are_bad(tmp_path: Path, orders: TargetServer) -> None:
    no_action = findings(tmp_path, '[targets.sell_soul]\nkind = "scripted"\n')
    assert [f.state for f in no_action] == ["bad", "good"]
    assert "there is no action sell_soul" in no_action[0].found
    no_secret = only(tmp_path, rest(orders.url, 'headers = { Authorization = "${secret.token}" }\n'))
    assert (no_secret.state, "is none of its secrets" in no_secret.found) == ("bad", True)


def test_several_targets_of_one_host_are_one_knock(tmp_path: Path) -> None:
    table = '[[targets.create_order]]\nkind = "rest"\nname = "{}"\nurl = "http://127.0.0.1:{}/orders"\n'
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        several = findings(tmp_path, table.format("a", port) + table.format("b", port))
        door.settimeout(0.2)
        door.accept()[0].close()
        with pytest.raises(TimeoutError):
            door.accept()
    assert [one.found.partition(":")[0] for one in several] == ["create_order.a", "create_order.b"]
