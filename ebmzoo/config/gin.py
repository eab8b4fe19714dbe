"""All that is taken from gin: its parser, and which bindings hold in a scope.

gin's state belongs to the whole process: a lock keeps other threads out while it is used, and it is empty
before and after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import gin
from gin.config_parser import (
    BindingStatement,
    ConfigParser,
    ImportStatement,
    IncludeStatement,
    ParserDelegate,
)

__all__ = [
    "BindingStatement",
    "ConfigParser",
    "ImportStatement",
    "IncludeStatement",
    "ParserDelegate",
    "bind",
    "bind_macro",
    "bound_to",
    "fields_of",
    "session",
    "within",
]

_LOCK = threading.RLock()


@contextmanager
def session() -> Iterator[None]:
    """Gives gin to one thread, without any binding; whatever is bound is forgotten in the end."""
    with _LOCK, gin.config_scope(None):
        gin.clear_config()
        try:
            yield
        finally:
            gin.clear_config()


def bind(scope: str, owner: str, field: str, value: Any) -> None:
    """Binds a field of a class in a scope."""
    _collector(owner)  # registered, if it was not
    gin.bind_parameter((scope, f"ebmzoo.{owner}", field), value)


def bind_macro(name: str, value: Any) -> None:
    """Binds a macro."""
    gin.bind_parameter((name, "gin.macro", "value"), value)


@contextmanager
def within(scope: str) -> Iterator[str]:
    """Enters a scope, or stays in the current one if none is named; gives the name of that it is in."""
    with gin.config_scope(scope.split("/") if scope else gin.current_scope()):
        yield gin.current_scope_str()


def fields_of(owner: str) -> dict[str, Any]:
    """Returns what is bound to the fields of a class in the current scope."""
    return _collector(owner)()


def bound_to(macro: str) -> Any:
    """Returns what a macro is bound to."""
    return gin.get_configurable(f"{macro}/gin.macro")()


@cache
def _collector(name: str) -> Callable[[], dict[str, Any]]:
    """Returns the function that gin calls in place of a class: it returns what it is given.

    gin adds words of its own to every exception that passes it, hence objects are made outside of it.
    """

    def collect(**values: Any) -> dict[str, Any]:
        return values

    return gin.external_configurable(collect, name=name, module="ebmzoo")
