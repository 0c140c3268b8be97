"""The domain is pure: no clock, no chance, no outside; so that a replay gives the same again."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DOMAIN = Path(__file__).parents[2] / "domain"
MODULES = sorted(DOMAIN.rglob("*.py"))

#: Of the standard library: what brings a clock, chance, threads or the outside.
IMPURE = {
    "asyncio",
    "concurrent",
    "http",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib",
}
CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "open", "print", "input", "sleep", "getenv", "urandom"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def called(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def name(module: Path) -> str:
    return str(module.relative_to(DOMAIN))


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_it_imports_the_standard_library_msgspec_and_itself(module: Path) -> None:
    roots = {imported.partition(".")[0] for imported in imports(ast.parse(module.read_text()))}
    assert roots <= sys.stdlib_module_names | {"msgspec", "domain"}
    assert not roots & IMPURE


@pytest.mark.parametrize("module", MODULES, ids=name)
def test_it_asks_no_clock_no_chance_and_nobody_outside(module: Path) -> None:
    assert not set(called(ast.parse(module.read_text()))) & CALLS


def test_what_is_impure_would_be_seen() -> None:
    tree = ast.parse("from time import time\nimport os.path\nx = datetime.now(UTC)\ny = uuid4()\nopen('x')")
    assert set(imports(tree)) == {"time", "os.path"}
    assert set(called(tree)) == {"now", "uuid4", "open"}


def test_no_module_of_the_domain_is_left_out() -> None:
    assert {"lead.py", "saga.py", "intents/order_request.py"} <= set(map(name, MODULES))
