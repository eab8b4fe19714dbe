"""What a frozen dataclass says about its fields: their ranges, and which came later.

A wrong value is a :class:`FieldError`; whoever knows where the value was written (a line of a gin file, an
option of the command line) adds that.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any


class FieldError(ValueError):
    """A field has a value that its class cannot accept.

    Arguments:
        owner: The object whose field it is.
        name: The field.
        expected: What would have been accepted, to follow the words "should be".
    """

    def __init__(self, owner: object, name: str, expected: str):
        self.owner, self.name, self.expected = type(owner).__name__, name, expected
        self.value = getattr(owner, name)
        self._given = (owner, name, expected)
        super().__init__(f"{self.owner}.{name} should be {expected}, not {self.value!r}")

    def __reduce__(self) -> tuple[type[FieldError], tuple[object, str, str]]:
        """Lets the error pass between processes."""
        return type(self), self._given


def positive(owner: object, *names: str) -> None:
    """Raises :class:`FieldError` unless each named field is a finite number above zero."""
    for name in names:
        if not 0 < getattr(owner, name) < math.inf:
            raise FieldError(owner, name, "a number above zero")


def not_negative(owner: object, *names: str) -> None:
    """Raises :class:`FieldError` unless each named field is a finite number, zero or above."""
    for name in names:
        if not 0 <= getattr(owner, name) < math.inf:
            raise FieldError(owner, name, "zero or a number above it")


def within(owner: object, name: str, low: float, high: float) -> None:
    """Raises :class:`FieldError` unless the named field lies in the closed interval [low, high]."""
    if not low <= getattr(owner, name) <= high:
        raise FieldError(owner, name, f"between {low:g} and {high:g}")


def share(owner: object, *names: str) -> None:
    """Raises :class:`FieldError` unless each named field lies in [0, 1), as the decay of an average does."""
    for name in names:
        if not 0 <= getattr(owner, name) < 1:
            raise FieldError(owner, name, "at least 0 and below 1")


def added(default: Any) -> Any:
    """Declares a field that came after artifacts of its class had been made.

    While it has its default, which must mean what was done before it came, it is no part of the description
    that names an artifact, so that old artifacts keep their names.
    """
    return dataclasses.field(default=default, metadata={"added": True})
