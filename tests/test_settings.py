"""Settings: what is wrong is said with its key, and nothing is set that nobody reads."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import Struct

import settings
import settings_document
import target_settings
from domain.errors import SettingsError
from domain.tenants import Thresholds
from settings import Settings, load
from target_settings import Part

ROOT = Path(__file__).parent.parent
SAMPLE = ROOT / "leadline.toml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without a settings file."""
    monkeypatch.chdir(tmp_path)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "leadline.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_sample_file_loads_and_changes_nothing_but_the_tenants() -> None:
    sample = load(SAMPLE, env={})
    assert sample.tenants().find("acme-foods") is not None
    assert msgspec.structs.replace(sample, tenants_={}) == Settings()


def test_every_commented_line_of_the_sample_file_is_a_setting_with_its_default() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    uncommented = re.sub(r"^# (?=\[|[a-z_]+ = )", "", text, flags=re.MULTILINE)
    document = tomllib.loads(uncommented)
    for changed in ("tenants", "targets", "businesses", "modules"):
        del document[changed]
    assert msgspec.convert(document, Settings, dec_hook=settings_document._decode) == Settings()
    assert set(document) == {f.encode_name for f in msgspec.structs.fields(Settings)} - {
        "tenants",
        "targets",
        "businesses",
        "modules",
    }
    for name, part in document.items():
        if isinstance(part, dict):
            fields = msgspec.structs.fields(type(getattr(Settings(), name)))
            assert set(part) == {f.encode_name for f in fields}, name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[nats]\nport = 'x'", "nats.port: expected `int`, got `str`"),
        ("[nats]\nprot = 1", "nats.prot: there is no such setting; did you mean port?"),
        ("[nast]\nport = 1", "nast: there is no such setting; did you mean nats?"),
        ("[pool]\nthreads = 0", "pool.threads: expected `int` >= 1"),
        ("data = 1", "data: expected text, got 1"),
        ("nats = 1", "nats: expected `object`, got `int`"),
        ("[thresholds]\nlow = 0.9", "thresholds: low (0.9) is above high (0.8)"),
        ("[thresholds]\nlow = nan", "thresholds.low: expected a number, got nan"),
        (
            "[tenants.a]\nbusinesses = ['b c']",
            "tenants.a.businesses: 'b c' is not 1 to 64 of A-Z a-z 0-9 _ -",
        ),
        (
            "[tenants.a]\nbusinesses = ['x']\n[tenants.b]\nbusinesses = ['x']",
            "tenants.b.businesses: 'x' is a business of tenant 'a' already",
        ),
        (
            "[tenants.a]\nbusinesses = ['foods']\n[businesses.food]\nlow = 0.1",
            "businesses.food: no tenant has this business; did you mean foods?",
        ),
        (
            "[tenants.a]\nbusinesses = ['x']\n[businesses.x]\nlow = 0.9",
            "businesses.x.low: 0.9 is above high (0.8)",
        ),
        ("[targets.a]\nkind = 'scripted'\nscript = []", "targets.a: script is empty"),
        (
            "[nats]\nmonitoring = '127.0.0.1:8222'",
            "nats: monitoring is no address such as http://127.0.0.1:8222: '127.0.0.1:8222'",
        ),
        ("[stream]\nkeep_hours = 1e300", "stream.keep_hours: expected `float` <= 87600.0"),
        (
            "[stream]\nmax_bytes = 99999999999999999999",
            "stream.max_bytes: expected `int` <= 9007199254740992",
        ),
        ("[pool]\nthreads = 1_000_000", "pool.threads: expected `int` <= 64"),
        ("[pool]\nbusy_warning_seconds = 1e300", "pool.busy_warning_seconds: expected `float` <= 31536000.0"),
        ("[leads]\nidle_seconds = 1e300", "leads.idle_seconds: expected `float` <= 31536000.0"),
        ("[leads]\ngive_up_seconds = 1e300", "leads.give_up_seconds: expected `float` <= 31536000.0"),
        ("[breaker]\nopen_seconds = 1e300", "breaker.open_seconds: expected `float` <= 31536000.0"),
        ("[breaker]\nopen_cap_seconds = 1e300", "breaker.open_cap_seconds: expected `float` <= 31536000.0"),
        (
            "[breaker]\nwindow_seconds = 10_000_000_000",
            "breaker.window_seconds: expected `int` <= 1000000000",
        ),
        ("[projector]\nbatch = 10_000_000_000", "projector.batch: expected `int` <= 1000000000"),
        (
            "[targets.a]\nkind = 'scripted'\ncalls_per_second = 1e-300",
            "targets.a.calls_per_second: expected `float` >= 0.0001",
        ),
        ("[retry]\ndelays_seconds = [1, -1]", "retry.delays_seconds[1]: expected `float` >= 0.0"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, text), env={})
    assert str(refused.value) == complaint


WEBHOOK = "kind = 'webhook'\nurl = 'https://a.example'\nsecrets = [{ env = 'A' }]\n"
EMAIL = "kind = 'email'\nhost = 'mail'\nsender = 'a@b.example'\nto = ['c@d.example']\n"
KINDS = "scripted, webhook, rest, slack, email, module"
NAMES = "give each of an action's targets a name of its own"
OF_X = "[tenants.t]\nbusinesses=['x']\n"
REST = "kind = 'rest'\nurl = 'https://a.example/orders'\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "[targets.a]\nkind = 'webhok'",
            f"targets.a.kind: expected one of {KINDS}, got 'webhok'; did you mean webhook?",
        ),
        (
            "[targets.a]\nurl = 'x'",
            f"targets.a.kind: expected one of {KINDS}, got None",
        ),
        ("[targets]\na = 1", "targets.a: expected `object`, got `int`"),
        (f"[targets.a]\n{WEBHOOK}ulr = 'x'", "targets.a.ulr: there is no such setting; did you mean url?"),
        (f"[targets.a]\n{WEBHOOK}timeout_seconds = 0", "targets.a.timeout_seconds: expected `float` > 0.0"),
        (
            f"[[targets.a]]\n{WEBHOOK}[[targets.a]]\n{WEBHOOK}name = 'B'",
            "targets.a.1.name: expected `str` matching regex '^[a-z0-9_-]{1,40}$'",
        ),
        (
            f"[[targets.a]]\n{WEBHOOK}[[targets.a]]\n{WEBHOOK.replace('https', 'ftp')}name = 'b'",
            "targets.a.1: 'ftp://a.example' is not a url that begins with https:// or http://",
        ),
        (
            f"[[targets.a]]\n{WEBHOOK}[[targets.a]]\n{WEBHOOK}",
            f"targets.a: two have no name; {NAMES}",
        ),
        (
            OF_X + f"[[businesses.x.targets.a]]\nname = 'n'\n{WEBHOOK}" * 2,
            f"businesses.x.targets.a: two targets have the name 'n'; {NAMES}",
        ),
        (
            "[targets.a]\nkind = 'slack'\nurl = 'https://hooks.slack.example/T/B/X'",
            'targets.a.url: a secret is given as { env = "NAME" } or { file = "path" }',
        ),
        (
            "[[targets.a]]\nkind = 'slack'\nurl = { env = 'A', file = 'b' }",
            'targets.a.0.url: a secret is either { env = "NAME" } or { file = "path" }',
        ),
        (
            f"[targets.a]\n{WEBHOOK.replace(chr(39) + 'A' + chr(39), '1')}",
            "targets.a.secrets.0.env: expected `str | null`, got `int`",
        ),
        (
            f"[targets.a]\n{REST}[targets.a.undo]\nmethod = 'GET'\nurl = 'https://a.example'",
            "targets.a.undo.method: invalid enum value 'GET'",
        ),
        (
            f"[targets.a]\n{REST}[targets.a.undo]\nmethd = 'PUT'",
            "targets.a.undo.methd: there is no such setting; did you mean method?",
        ),
        (
            "[targets.a]\nkind = 'rest'\nurl = 'https://me:word@a.example'",
            "targets.a: a url's user and password would stand here as text: use a header with a secret",
        ),
        (
            "[targets.a]\nkind = 'rest'\nurl = 'https://${entities.shop}.example/'",
            "targets.a: a url's host is no template: what a lead wrote would choose who is called",
        ),
        (
            f"[targets.a]\n{EMAIL.replace('c@d', 'c, e@d')}",
            "targets.a: 'c, e@d.example' is not an address like sales@example.com",
        ),
        (f"[targets.a]\n{EMAIL}user = 'u'", "targets.a: user and password go together"),
        (
            f"[targets.a]\n{EMAIL}user = 'u'\npassword = {{ env = 'A' }}\ntls = 'none'",
            "targets.a: a login needs tls",
        ),
    ],
)
def test_what_is_wrong_with_a_target_is_said_with_its_key_at_every_depth(
    tmp_path: Path, text: str, complaint: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, text), env={})
    assert str(refused.value) == complaint


def test_an_actions_targets_are_one_table_or_several_in_order(tmp_path: Path) -> None:
    text = (
        f"[targets.one]\n{WEBHOOK}[[targets.two]]\n{EMAIL}[[targets.two]]\nname = 'second'\n{REST}"
        f"[tenants.t]\nbusinesses = ['x']\n[businesses.x.targets]\none = []\n[businesses.x.targets.two]\n{EMAIL}"
    )
    loaded = load(written(tmp_path, text), env={})
    assert [type(t).__name__ for t in loaded.targets["one"]] == ["Webhook"]
    assert [(type(t).__name__, t.name) for t in loaded.targets["two"]] == [
        ("Email", None),
        ("Rest", "second"),
    ]
    assert [t.idempotency for t in loaded.targets["two"]] == ["once", "once"]
    assert loaded.businesses["x"].targets["one"] == ()
    assert len(loaded.businesses["x"].targets["two"]) == 1


def test_the_sample_file_shows_every_setting_of_every_kind_of_target() -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    tables = re.findall(r"(?:^# \[\[?targets\.[a-z_.]+\]\]?.*\n(?:^# .*\n)*)", text, flags=re.MULTILINE)
    document = tomllib.loads("\n".join(re.sub("^# ", "", table, flags=re.MULTILINE) for table in tables))
    shown: dict[str, set[str]] = {}
    for targets in document["targets"].values():
        for target in targets if isinstance(targets, list) else [targets]:
            shown.setdefault(target["kind"], set()).update(target)
    for kind in get_args(target_settings.Target):
        fields = {f.encode_name for f in msgspec.structs.fields(kind)}
        everywhere = {
            "name",
            "timeout_seconds",
            "workers",
            "calls_per_second",
            "connect_timeout_seconds",
            "ca_file",
        }
        assert fields - everywhere <= shown[kind.__struct_config__.tag], kind
    assert everywhere <= set().union(*shown.values())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"data = ", "not TOML"), (b"# \xff", "not UTF-8 at byte 2"), (None, "No such file")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "other.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=complaint) as refused:
        load(file, env={})
    assert str(refused.value).startswith(str(file))


def test_a_variable_goes_before_the_file_and_the_command_line_before_both(tmp_path: Path) -> None:
    file = written(tmp_path, "[nats]\nurl = 'nats://file:1'\nport = 1\n[pool]\nthreads = 1")
    env = {"LEADLINE_NATS__URL": "nats://env:2", "LEADLINE_POOL__THREADS": "3", "HOME": "/x"}
    loaded = load(file, env=env, overrides={"nats.url": "nats://line:3"})
    assert (loaded.nats.url, loaded.nats.port, loaded.pool.threads) == ("nats://line:3", 1, 3)


def test_a_variable_holds_lists_and_tables_as_the_file_does() -> None:
    env = {
        "LEADLINE_RETRY__DELAYS_SECONDS": "[1, 2.5]",
        "LEADLINE_TENANTS__ACME__BUSINESSES": '["acme-foods"]',
        "LEADLINE_DATA": "/somewhere/else",
    }
    loaded = load(env=env)
    assert loaded.retry.delays_seconds == (1.0, 2.5)
    assert loaded.tenants().find("acme-foods") is not None
    assert loaded.data == Path("/somewhere/else")


def test_a_variable_cannot_smuggle_in_another_setting() -> None:
    loaded = load(env={"LEADLINE_DATA": "'a'\nhttp_port = 1"})
    assert loaded.http_port == Settings().http_port


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="dat: there is no such setting; did you mean data"):
        load(env={"LEADLINE_DAT": "x"})


def test_the_file_is_named_by_a_variable_where_the_command_line_names_none(tmp_path: Path) -> None:
    file = written(tmp_path, "http_port = 1")
    assert load(env={"LEADLINE_CONFIG": str(file)}).http_port == 1


def test_a_business_keeps_the_thresholds_it_does_not_override(tmp_path: Path) -> None:
    text = "[tenants.a]\nbusinesses = ['x', 'y']\n[thresholds]\nhigh = 0.7\n[businesses.x]\nlow = 0.6"
    tenants = load(written(tmp_path, text), env={}).tenants()
    assert [tenants.businesses[b].thresholds for b in "xy"] == [Thresholds(0.7, 0.6), Thresholds(0.7, 0.5)]


def test_a_business_parks_after_a_dead_letter_where_it_or_all_do(tmp_path: Path) -> None:
    both = "[tenants.a]\nbusinesses = ['x', 'y']\n[businesses.x]\nafter_dead_letter = "
    for common, own, expected in (
        ("", "'park'", [True, False]),
        ("after_dead_letter = 'park'\n", "'continue'", [False, True]),
    ):
        tenants = load(written(tmp_path, common + both + own), env={}).tenants()
        assert [tenants.businesses[b].parks for b in "xy"] == expected


def test_each_setting_is_read_somewhere() -> None:
    modules = ("settings", "target_settings", "target_wiring", "wiring", "runner")
    sources = [ROOT / f"{name}.py" for name in modules]
    for package in ("actors", "cli", "domain", "outbox", "projections"):
        sources += (ROOT / package).rglob("*.py")
    read = {name for file in sources if file.exists() for name in attributes_read(file)}
    unread = {f"{part.__name__}.{name}" for part, name in all_fields() if name not in read}
    assert not unread


def attributes_read(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def all_fields() -> list[tuple[type[Struct], str]]:
    named = [*vars(settings).values(), *vars(target_settings).values()]
    parts: list[Any] = [v for v in named if isinstance(v, type) and issubclass(v, Part)]
    return [(part, field.name) for part in parts for field in msgspec.structs.fields(part)]
