"""What gin files say, and where they say it.

gin's own parser reads the text. What it finds becomes :class:`Binding` values, each with its file and line,
whose names are held against the classes that plugins offer. Nothing is evaluated here.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gin import config_parser

from ebmzoo.config.errors import ConfigError, nearest
from ebmzoo.config.registry import broken
from ebmzoo.config.sources import included, read, shown


@dataclass(frozen=True)
class Where:
    """Where something was written.

    Arguments:
        source: A file, or an option of the command line.
        line: The line of the file, or None.
    """

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Reference:
    """A value ``@scope/Class()``: an object that is made in a scope, or in that of its owner."""

    scope: str
    name: str
    called: bool = True
    where: Where = field(default=Where(""), compare=False)

    def __repr__(self) -> str:
        return f"@{self.scope + '/' if self.scope else ''}{self.name}{'()' if self.called else ''}"


@dataclass(frozen=True)
class Macro:
    """A value ``%NAME``: whatever is bound to that name."""

    name: str
    where: Where = field(default=Where(""), compare=False)

    def __repr__(self) -> str:
        return f"%{self.name}"


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
            if isinstance(statement, config_parser.IncludeStatement):
                new = self._include(statement.filename, where, (*above, path))
            elif isinstance(statement, config_parser.BindingStatement):
                binding = self._binding(statement, where, shared=bool(above))
                new = {binding.key: binding}
            else:
                self._check_other(statement, where)
                continue
            _check_once(layer, new, source)
            layer |= new
        return layer

    def setting(self, text: str) -> Layer:
        """Returns the one binding that an option ``--set`` of the command line gives.

        Raises:
            ConfigError: If it is none, or names what does not exist.
        """
        where = Where(f"--set {text!r}")
        statements = self._parsed(text, where.source, lines=False)
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
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
        if isinstance(statement, config_parser.ImportStatement):
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
            hint = nearest(name, self.classes) or "; `ebmzoo list` shows what there is."
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


class _Parser(config_parser.ConfigParser, config_parser.ParserDelegate):
    """gin's parser, which also notes on which line each value begins."""

    def __init__(self, text: str, source: str, lines: bool):
        self.source, self.lines = source, lines
        self.mentioned: list[Reference] = []
        self.line = self.began = 1
        self.depth = 0
        super().__init__(text, self)

    def parse_value(self) -> Any:
        self.line = self.current_token.start[0]
        self.began = self.began if self.depth else self.line
        self.depth += 1
        value = super().parse_value()
        self.depth -= 1
        return value

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        reference = Reference(scope, name, evaluate, self.where(self.line))
        self.mentioned.append(reference)
        return reference

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name, self.where(self.line))

    def where(self, line: int) -> Where:
        return Where(self.source, line if self.lines else None)


def parse(text: str, source: str, lines: bool = True) -> tuple[list[Any], list[Reference]]:
    """Returns gin's statements of a text, and the references in them.

    Arguments:
        text: The text.
        source: What it is called in messages.
        lines: Whether messages say the line.

    Raises:
        ConfigError: If it is not gin's language.
    """
    text = io.StringIO(text, newline=None).read()
    parser: _Parser | None = None
    statements = []
    try:
        parser = _Parser(text, source, lines)
        while (statement := parser.parse_statement()) is not None:
            statements.append(statement)
        return statements, parser.mentioned
    except SyntaxError as error:
        line, reason = error.lineno or 1, _reason(error.msg, parser)
    except tokenize.TokenError as error:  # up to Python 3.11 for brackets only, later for strings too
        line, reason = error.args[1][0], UNCLOSED
        if parser and "multi-line statement" in error.args[0]:  # which is told with the last line
            line = parser.began
    except (StopIteration, RecursionError, TypeError, ValueError):
        line, reason = (parser.began if parser else 1), "this is no value"
    written = dict(enumerate(text.split("\n"), 1)).get(line, "").strip()
    written = written if len(written) <= 80 else f"{written[:77]}..."
    said = f"{written!r} ({source}:{line})" if lines else source
    raise ConfigError(f"Cannot read {said}: {reason}.")


UNCLOSED = "a string or a bracket is opened and not closed"

REASONS = {
    "Couldn't parse statement": "a line reads scope/Class.field = value, or NAME = value",
    "Unexpected token": "a line reads scope/Class.field = value, or NAME = value",
    "Malformatted scope": "a name is made of letters, digits and _, with / after a scope and no blanks",
    "Invalid identifier": "a line of a block reads field = value",
    "Expected newline": "something follows that does not belong there",
    "Expected indentation": "the lines of a block are indented",
    "unindent": "the line is indented unlike those above it",
}
"""What the beginnings of the parser's messages mean in the words of this package."""


def _reason(message: str, parser: _Parser | None) -> str:
    """Returns what is wrong with a text, given what the parser says."""
    token = parser.current_token.string.strip() if parser else ""
    if message.startswith("Unable to parse value"):
        if token.startswith(("'", '"')):
            return UNCLOSED
        return f"{token!r} is no value" if token else "the value is missing"
    if failed := re.search(r"Failed to parse token '(.*)'", message, re.DOTALL):
        hint = nearest(failed[1], ("True", "False", "None"))
        return f"{failed[1]} is no value{hint or '; text stands in quotes'}"
    if parser and message.startswith("Expected ',' or"):
        return f"the bracket opened at line {parser.began} is not closed, or a comma is missing"
    for beginning, reason in REASONS.items():
        if message.startswith(beginning):
            return reason
    return " ".join(message.split()).rstrip(".")
