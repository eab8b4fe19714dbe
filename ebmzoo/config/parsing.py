"""What a text in gin's language says, and on which line.

gin's own parser reads it; its complaints are told in the words of this package.
"""

from __future__ import annotations

import io
import re
import tokenize
import warnings
from dataclasses import dataclass, field
from typing import Any

from ebmzoo.config.errors import ConfigError
from ebmzoo.config.gin import ConfigParser, ParserDelegate


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


class _Parser(ConfigParser, ParserDelegate):
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's, of a backslash that escapes nothing
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
    written = text.split("\n")[:line]
    while len(written) > 1 and not written[-1].strip():
        written.pop()
    said = f"{_short(written[-1].strip())} ({source}:{len(written)})" if lines else source
    raise ConfigError(f"Cannot read {said}: {reason}.")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


UNCLOSED = "a string or a bracket is opened and not closed"

REASONS = {
    "Couldn't parse statement": "a line reads scope/Class.field = value, or NAME = value",
    "Unexpected token": "a line reads scope/Class.field = value, or NAME = value",
    "Malformatted scope": "a name is made of letters, digits and _, with / after a scope and no blanks",
    "Invalid identifier": "a line of a block reads field = value",
    "Expected '='": "a line of a block reads field = value",
    "Expected ')'": "the parentheses of a reference stay empty; a field is bound on a line of its own",
    "Expected file path": "an include names its file in quotes",
    "Expected newline": "something follows that does not belong there",
    "Expected indentation": "the lines of a block are indented",
    "unindent": "the line is indented unlike those above it",
}
"""What the beginnings of the parser's messages mean."""

CONSTANTS = {"true": "True", "false": "False", "none": "None", "null": "None"}


def _reason(message: str, parser: _Parser | None) -> str:
    """Returns what is wrong with a text, given what the parser says."""
    token = parser.current_token.string.strip() if parser else ""
    if message.startswith("Unable to parse value"):
        if token.startswith(("'", '"')):
            return UNCLOSED
        return f"{token!r} is no value" if token else "the value is missing"
    if failed := re.search(r"Failed to parse token '(.*)'", message, re.DOTALL):
        constant = CONSTANTS.get(failed[1].casefold())
        return f"{failed[1]} is no value; {f'write {constant}' if constant else 'text stands in quotes'}"
    if parser and message.startswith("Expected ',' or"):
        return f"the bracket opened at line {parser.began} is not closed, or a comma is missing"
    reasons = [reason for beginning, reason in REASONS.items() if message.startswith(beginning)]
    return reasons[0] if reasons else " ".join(message.split()).rstrip(".")
