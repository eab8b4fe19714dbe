"""What gin files bind, and where.

Each binding keeps its file and line. The names in it are held against the classes that plugins offer; nothing
is evaluated here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ebmzoo.config.errors import ConfigError, nearest
from ebmzoo.config.gin import BindingStatement, ImportStatement, IncludeStatement
from ebmzoo.config.parsing import Where, parse
from ebmzoo.config.registry import broken
from ebmzoo.config.sources import BASES, included, read, shown
from ebmzoo.hookspecs import KINDS


class Key(NamedTuple):
    """What a binding binds: a field of a class in a scope, or a macro, which stands in place of the scope."""

    scope: str
    owner: str = ""
    field: str = ""

    def __str__(self) -> str:
        field = f"{self.owner}.{self.field}" if self.owner else ""
        return "/".join(part for part in (self.scope, field) if part)


@dataclass(frozen=True, eq=False)
class Binding:
    """One ``scope/Class.field = value`` or ``NAME = value``.

    Arguments:
        key: What is bound.
        value: What it is bound to, with references and macros unevaluated.
        where: Where that was written.
        shared: Whether it stands in a file that is included.
    """

    key: Key
    value: Any
    where: Where
    shared: bool = False

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r}"


Layer = dict[Key, Binding]
"""Bindings, of which a later one has taken the place of an earlier one."""


class Reader:
    """Reads files and single bindings.

    Arguments:
        classes: The classes that may be named.
    """

    def __init__(self, classes: Mapping[str, type]):
        self.classes = classes

    def file(self, path: Path, above: tuple[Path, ...] = ()) -> Layer:
        """Returns the bindings of a file and of all that it includes.

        Arguments:
            path: The file.
            above: The files that include it, outermost first.

        Raises:
            ConfigError: If any of them cannot be read, or names what does not exist.
        """
        source = shown(path)
        layer: Layer = {}
        for statement in self._parsed(read(path), source):
            where = Where(source, statement.location.line_num)
            if isinstance(statement, IncludeStatement):
                new = self._include(statement.filename, where, (*above, path))
            elif isinstance(statement, BindingStatement):
                binding = self._binding(statement, where, shared=bool(above))
                new = {binding.key: binding}
            else:
                self._check_other(statement, where)
                continue
            _check_once(layer, new, source)
            layer |= new
        return layer

    def original(self, path: Path) -> Layer:
        """Returns the bindings of the tables that a file includes, which are none of most files.

        A file that includes a table is that table with differences, whatever its name; one that includes what
        tables share, from a folder ``bases``, is a table itself.

        Arguments:
            path: The file, which :meth:`file` can read: it does not include itself.
        """
        source = shown(path)
        found: Layer = {}
        for statement in self._parsed(read(path), source):
            if isinstance(statement, IncludeStatement):
                within = included(statement.filename, Where(source, statement.location.line_num))
                if within.parent.name != BASES:
                    found |= self.original(within) or self.file(within)
        return found

    def setting(self, text: str) -> Layer:
        """Returns the one binding that an option ``--set`` of the command line gives.

        Raises:
            ConfigError: If it is none, or names what does not exist.
        """
        where = Where(f"--set {text!r}")
        statements = self._parsed(text, where.source, lines=False)
        if len(statements) != 1 or not isinstance(statements[0], BindingStatement):
            raise ConfigError(f"{where} is not one binding; write --set 'scope/Class.field=value'.")
        binding = self._binding(statements[0], where)
        return {binding.key: binding}

    def _include(self, name: str, where: Where, above: tuple[Path, ...]) -> Layer:
        path = included(name, where)
        if path.resolve() in [other.resolve() for other in above]:
            chain = " includes ".join(shown(file) for file in (*above, path))
            raise ConfigError(f"A file includes itself ({where}): {chain}.")
        return self.file(path, above)

    def _binding(self, statement: Any, where: Where, shared: bool = False) -> Binding:
        scope, owner, field = statement.scope, statement.selector, statement.arg_name
        if field:
            self._check_class(owner, where)
            self._check_field(owner, field, where)
        else:
            scope, owner = "/".join(part for part in (scope, owner) if part), ""
        return Binding(Key(scope, owner, field), statement.value, where, shared)

    def _check_other(self, statement: Any, where: Where) -> None:
        if isinstance(statement, ImportStatement):
            raise ConfigError(
                f"Cannot do {statement.format()!r} ({where}): gin files import nothing; plugins come through "
                "entry points only. Remove the line."
            )
        self._check_class(statement.selector, where)

    def _parsed(self, text: str, source: str, lines: bool = True) -> list[Any]:
        statements, mentioned = parse(text, source, lines)
        for reference in mentioned:
            self._check_class(reference.name, reference.where)
            if not reference.called:
                raise ConfigError(
                    f"{reference!r} names a class and is no value ({reference.where}); did you forget the "
                    f"parentheses of {reference!r}()?"
                )
        return statements

    def _check_class(self, name: str, where: Where) -> None:
        if name not in self.classes:
            kinds = ", ".join(KINDS)
            hint = (
                nearest(name, self.classes)
                or f"; `ebmzoo list KIND` shows what there is, KIND being one of {kinds}."
            )
            raise ConfigError(f"There is no class {name!r} ({where}){hint}{broken()}")

    def _check_field(self, name: str, field: str, where: Where) -> None:
        fields = [each.name for each in dataclasses.fields(self.classes[name]) if each.init]
        if field not in fields:
            hint = nearest(field, fields) or f"; it has {', '.join(fields) or 'none at all'}"
            raise ConfigError(f"{name} has no field {field!r} ({where}){hint}")


def _check_once(layer: Layer, new: Layer, source: str) -> None:
    """Raises ConfigError if a binding written in this very file would be replaced."""
    for key, binding in new.items():
        if key in layer and layer[key].where.source == source:
            raise ConfigError(
                f"{key} is bound at {layer[key].where} and again at {binding.where}, so that the first does "
                "nothing; remove one of them."
            )
