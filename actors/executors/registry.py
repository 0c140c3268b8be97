"""Finds the executors: `EXECUTOR` or `EXECUTORS` of every module in `actors.executors` and of the settings' modules."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import actors.executors
from actors.executors.executor import Executor
from domain.actions import ActionSpec
from domain.declared import declared
from domain.errors import SettingsError


def discover(modules: Iterable[ModuleType] = ()) -> Mapping[str, Executor]:
    """Action → its executor. A later module's takes the place of an earlier one's of the same action.

    Raises `SettingsError` for what is none.
    """
    found: dict[str, Executor] = {}
    built_in = (
        import_module(f"actors.executors.{i.name}") for i in pkgutil.iter_modules(actors.executors.__path__)
    )
    for module in (*built_in, *modules):
        found |= {executor.spec.name: executor for executor in _executors_of(module)}
    return found


def _executors_of(module: ModuleType) -> Iterable[Executor]:
    for executor in declared(module, "EXECUTOR", Executor):
        _check(module.__name__, executor)
        yield executor


def _check(module: str, executor: Any) -> None:
    """Its fields: a Struct takes whatever its author puts in."""
    functions = callable(executor.fields) and callable(executor.undo_fields)
    if not (isinstance(executor.spec, ActionSpec) and functions):
        wanted = "an ActionSpec as spec, and functions as fields and undo_fields"
        raise SettingsError(f"modules: {module}.EXECUTOR needs {wanted}")
