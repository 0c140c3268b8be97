"""The borders of the house, and its habits, held by tests."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("actors", "cli", "domain", "outbox", "projections")
MODULES = (
    "runner.py",
    "settings.py",
    "settings_document.py",
    "target_settings.py",
    "target_wiring.py",
    "wiring.py",
)

#: What the modules above the packages may not do; import-linter's contracts hold the packages.
FOREIGN_TO_MODULES = {
    "settings.py": {"actors", "cli", "eventsourcing", "nats", "projections", "runner", "rich", "sqlalchemy"},
    "settings_document.py": {"actors", "cli", "projections", "runner", "settings", "rich"},
    "target_settings.py": {"actors", "cli", "httpx", "projections", "runner", "settings", "slack_sdk"},
    "target_wiring.py": {
        "cli",
        "httpx",
        "projections",
        "runner",
        "settings",
        "slack_sdk",
        "standardwebhooks",
    },
    "wiring.py": {
        "cli",
        "eventsourcing",
        "nats",
        "prometheus_client",
        "rich",
        "runner",
        "sqlalchemy",
        "typer",
    },
    "runner.py": {"eventsourcing", "nats", "prometheus_client", "rich", "sqlalchemy", "typer"},
}
#: A catalogue of Structs, one after the other; splitting it would hide what is there.
LONG_BY_NATURE = {"domain/events.py"}
#: The only files that may import `runner`: the command line, which it stands under.
MAY_IMPORT_RUNNER = {"cli", "tests", "bench"}


def sources() -> Iterator[Path]:
    for package in PACKAGES:
        yield from (ROOT / package).rglob("*.py")
    yield from (ROOT / module for module in MODULES if (ROOT / module).exists())


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def imports_of(file: Path, *, at_top: bool = False) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_the_import_contracts_are_kept() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "domain").rglob("*.py")), ids=named)
def test_the_domain_imports_the_standard_library_and_msgspec_alone(file: Path) -> None:
    assert imports_of(file) <= {*sys.stdlib_module_names, "msgspec", "domain"}


@pytest.mark.parametrize("file", sorted((ROOT / "domain").rglob("*.py")), ids=named)
def test_the_domain_has_no_clock_no_chance_and_no_threads(file: Path) -> None:
    assert not imports_of(file) & {"asyncio", "os", "random", "secrets", "socket", "threading", "time"}
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
    assert not called & {"now", "utcnow", "today", "uuid1", "uuid4"}


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_above_the_packages_know_no_library_that_has_a_room_of_its_own(module: str) -> None:
    file = ROOT / module
    if not file.exists():
        pytest.skip("not written yet")
    assert not imports_of(file) & FOREIGN_TO_MODULES[module]


def test_nobody_imports_the_composition_root_but_the_command_line() -> None:
    importers = {named(file) for file in sources() if "runner" in imports_of(file)}
    assert {name for name in importers if name.split("/")[0] not in MAY_IMPORT_RUNNER} == set()


def test_actors_and_projections_are_handed_values_and_never_read_settings() -> None:
    readers = {named(file) for file in sources() if "settings" in imports_of(file)}
    assert {
        name for name in readers if name.startswith(("actors/", "outbox/", "projections/", "domain/"))
    } == set()


def test_no_function_is_longer_than_fifty_lines_and_no_module_than_four_hundred() -> None:
    too_long = [f"{named(file)}:{outlier}" for file in sources() for outlier in outliers(file)]
    assert not too_long


def outliers(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > 400 and named(file) not in LONG_BY_NATURE:
        yield f"1 module of {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            size = (node.end_lineno or 0) - node.lineno - doc.count("\n")
            if size > 50:
                yield f"{node.lineno} {node.name} of {size} lines"


@pytest.mark.parametrize("file", sorted(sources()), ids=named)
def test_importing_a_module_opens_nothing(file: Path) -> None:
    """No call with an effect stands at a module's top: no socket, file, thread or log is begun there."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = {
        ast.unparse(node.func).split(".")[-1]
        for statement in tree.body
        if isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    }
    assert not calls & {"open", "connect", "Thread", "Process", "start", "create_engine", "run", "socket"}


def test_a_command_does_not_wait_for_the_libraries_of_targets_that_it_does_not_make() -> None:
    code = "import sys, runner; print(*sorted({'httpx', 'slack_sdk', 'smtplib'} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
