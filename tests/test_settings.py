"""Settings: what is wrong is said with its key, and nothing is set that nobody reads."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

import settings
from domain.errors import SettingsError
from domain.tenants import Thresholds
from settings import Settings, load

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
    assert msgspec.convert(document, Settings, dec_hook=settings._decode) == Settings()
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
        ("[targets.create_order]\nkind = 'http'", "targets.create_order.kind: invalid enum value 'http'"),
        ("[targets.a]\nkind = 'scripted'\nscript = []", "targets.a: script is empty"),
        ("[retry]\ndelays_seconds = [1, -1]", "retry.delays_seconds[1]: expected `float` >= 0.0"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(written(tmp_path, text), env={})
    assert str(refused.value) == complaint


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


def test_each_setting_is_read_somewhere() -> None:
    sources = [ROOT / "settings.py", ROOT / "wiring.py", ROOT / "runner.py"]
    for package in ("actors", "cli", "domain", "projections"):
        sources += (ROOT / package).rglob("*.py")
    read = {name for file in sources if file.exists() for name in attributes_read(file)}
    unread = {f"{part.__name__}.{name}" for part, name in all_fields() if name not in read}
    assert not unread


def attributes_read(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def all_fields() -> list[tuple[type[Struct], str]]:
    parts: list[Any] = [v for v in vars(settings).values() if isinstance(v, type) and v is not settings._Part]
    return [
        (part, field.name)
        for part in parts
        if issubclass(part, settings._Part)
        for field in msgspec.structs.fields(part)
    ]
