"""Finds the executors: `EXECUTOR` of every module in `actors.executors` and of the settings' modules."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType

import actors.executors
from actors.executors.executor import Executor
from domain.errors import SettingsError


def discover(modules: Iterable[ModuleType] = ()) -> Mapping[str, Executor]:
    """Action → its executor. A later module's takes the place of an earlier one's of the same action."""
    found: dict[str, Executor] = {}
    built_in = (
        import_module(f"actors.executors.{i.name}") for i in pkgutil.iter_modules(actors.executors.__path__)
    )
    for module in (*built_in, *modules):
        for executor in (getattr(module, "EXECUTOR", None), *getattr(module, "EXECUTORS", ())):
            if executor is None:
                continue
            if not isinstance(executor, Executor):
                raise SettingsError(f"modules: {module.__name__}.EXECUTOR is not an Executor")
            found[executor.spec.name] = executor
    return found
