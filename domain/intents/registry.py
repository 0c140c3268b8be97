"""Finds the handlers: `HANDLER` of every module in `domain.intents` and of the settings' modules."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import domain.intents
from domain.declared import declared
from domain.errors import SettingsError
from domain.intents.handler import IntentHandler

#: The intent whose handler takes what nobody registered, and what the AI was unsure of.
UNKNOWN = "UNKNOWN"


def discover(modules: Iterable[ModuleType] = ()) -> Mapping[str, IntentHandler]:
    """Intent → its handler: the built-in ones, and those that `modules` hold as `HANDLER` or `HANDLERS`.

    The highest priority wins; at equal priority the later module does. Raises `SettingsError` for a
    `HANDLER` that is none.
    """
    handlers: dict[str, IntentHandler] = {}
    for module in (*_built_in(), *modules):
        for handler in _handlers_of(module):
            known = handlers.get(handler.intent)
            if known is None or handler.priority >= known.priority:
                handlers[handler.intent] = handler
    return handlers


def _built_in() -> Iterable[ModuleType]:
    for info in pkgutil.iter_modules(domain.intents.__path__):
        yield import_module(f"domain.intents.{info.name}")


def _handlers_of(module: ModuleType) -> Iterable[IntentHandler]:
    for handler in declared(module, "HANDLER", IntentHandler):
        _check(module.__name__, handler)
        yield handler


def _check(module: str, handler: Any) -> None:
    """Its fields: a Struct takes whatever its author puts in."""
    if not (isinstance(handler.intent, str) and callable(handler.plan) and type(handler.priority) is int):
        wanted = "an intent (text), a plan (a function) and a priority (a whole number)"
        raise SettingsError(f"modules: {module}.HANDLER needs {wanted}")
