"""From bindings to one value.

gin keeps the bindings and finds out which of them hold in a scope; objects are made here, so that a value
which does not fit is told with the line it was written on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ebmzoo.config import gin
from ebmzoo.config.bindings import Binding, Key, Layer
from ebmzoo.config.checks import Mismatch, convert, field_types, told
from ebmzoo.config.errors import ConfigError, Incomplete, closest, nearest
from ebmzoo.config.parsing import Macro, Reference, Where
from ebmzoo.config.registry import broken
from ebmzoo.config.sources import shown
from ebmzoo.fields import FieldError

TABLE = "Table"
"""The name of the class whose instance is built."""


class Build:
    """One value made of bindings, with what was read for it.

    Arguments:
        classes: The classes that may be named.
        bindings: The bindings.
        path: The table's own file, for messages.
    """

    def __init__(self, classes: Mapping[str, type], bindings: Layer, path: Path):
        self.classes, self.bindings, self.path = classes, bindings, path
        self.read: set[Binding] = set()
        self.made: dict[str, set[str]] = {}
        self.within: list[str] = []

    def table(self) -> Any:
        """Returns the table.

        Raises:
            Incomplete: If a field that has no default, or a macro, is bound to nothing.
            ConfigError: If a value does not fit.
        """
        if TABLE not in self.classes:
            raise ConfigError(f"There is no class {TABLE!r} for {shown(self.path)} to make.{broken()}")
        with gin.session():
            for key, binding in self.bindings.items():
                value = self._live(binding.value)
                if key.owner:
                    gin.bind(key.scope, key.owner, key.field, value)
                else:
                    gin.bind_macro(key.scope, value)
            return self._make(Reference("", TABLE, where=Where(shown(self.path))))

    def holding(self, key: Key) -> Binding:
        """Returns the binding that holds for a field in a scope, which is that of the innermost scope."""
        keys = (key._replace(scope=scope) for scope in outer_scopes(key.scope))
        return next(self.bindings[each] for each in keys if each in self.bindings)

    def _live(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._live(item) for item in value)
        return _Live(self, value) if isinstance(value, Reference | Macro) else value

    def evaluate(self, value: Reference | Macro) -> Any:
        """Returns what a reference makes, or what a macro is bound to, in the scope that gin is in."""
        return self._make(value) if isinstance(value, Reference) else self._macro(value)

    def _make(self, reference: Reference) -> Any:
        with gin.within(reference.scope) as within:
            self.made.setdefault(reference.name, set()).add(within)
            with self._inside(repr(dataclasses.replace(reference, scope=within)), reference.where):
                values = gin.fields_of(reference.name)
            return self._object(self.classes[reference.name], within, values, reference.where)

    def _macro(self, macro: Macro) -> Any:
        key = Key(macro.name)
        if key not in self.bindings:
            hint = nearest(macro.name, [other.scope for other in self.bindings if not other.owner])
            remedy = hint or f"; write {macro.name} = ..., or include the file that does."
            raise Incomplete(f"There is no macro {macro!r} ({macro.where}){remedy}")
        self.read.add(self.bindings[key])
        with self._inside(repr(macro), macro.where):
            return gin.bound_to(macro.name)

    @contextmanager
    def _inside(self, what: str, where: Where) -> Iterator[None]:
        if what in self.within:
            chain = " needs ".join([*self.within[self.within.index(what) :], what])
            raise ConfigError(f"A value needs itself ({where}): {chain}.")
        self.within.append(what)
        yield
        self.within.pop()

    def _object(self, cls: type, scope: str, values: dict[str, Any], where: Where) -> Any:
        bound = {name: self.holding(Key(scope, cls.__name__, name)) for name in values}
        self.read.update(bound.values())
        fields = {name: self._fitting(cls, name, values[name], bound[name]) for name in values}
        self._check_complete(cls, scope, fields, where)
        try:
            return cls(**fields)
        except FieldError as error:
            text = f"{str(error).removesuffix(f', not {error.value!r}')}, not {told(error.value)}"
            own = error.owner == cls.__name__ and error.name in bound
            origin = self._origin(bound[error.name]) if own else where
            raise ConfigError(f"{text} ({origin})") from None
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(f"{cls.__name__} cannot be made ({where}): {reason}") from error

    def _fitting(self, cls: type, name: str, value: Any, binding: Binding) -> Any:
        try:
            return convert(value, field_types(cls)[name])
        except Mismatch as error:
            raise ConfigError(
                f"{cls.__name__}.{name}{error.path} should be {error.expected}, not {told(error.value)} "
                f"({self._origin(binding)}){error.remedy}"
            ) from None

    def _origin(self, binding: Binding) -> str:
        """Returns where a binding is, and where the macro is that it takes its value from."""
        origin = str(binding.where)
        while isinstance(binding.value, Macro):
            binding = self.bindings[Key(binding.value.name)]
            origin += f", through {binding.key} at {binding.where}"
        return origin

    def _check_complete(self, cls: type, scope: str, fields: Mapping[str, Any], where: Where) -> None:
        missing = [name for name in _required(cls) if name not in fields]
        if missing:
            key = Key(scope, cls.__name__, missing[0])
            within = f" in the scope {scope!r}" if scope else ""
            remedy = self._elsewhere(key) or f"; say --set '{key}=...', or write {key} = ... in a gin file."
            raise Incomplete(
                f"{cls.__name__} needs {' and '.join(missing)}, which nothing binds{within} (it is made at "
                f"{where}){remedy}"
            )

    def _elsewhere(self, key: Key) -> str:
        """Returns a clause about the scope, of a name alike, in which a field is bound; or nothing."""
        there = {other.scope: binding for other, binding in self.bindings.items() if other[1:] == key[1:]}
        scope = closest(key.scope, there)
        return "" if scope is None else f"; is {there[scope].key} ({there[scope].where}) meant for it?"


class _Live:
    """A reference or macro as gin holds it. gin copies what it gives; a copy of this is what it means."""

    def __init__(self, build: Build, value: Reference | Macro):
        self.build, self.value = build, value

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self.build.evaluate(self.value)


def _required(cls: type) -> list[str]:
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return [field.name for field in fields if field.default is missing and field.default_factory is missing]


def outer_scopes(scope: str) -> list[str]:
    """Returns the scopes whose bindings hold in a scope: itself first, no scope last."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]
