"""Whether a value is what the annotation of a field says."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal, Protocol, Union, get_args, get_origin

WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "None",
    None: "None",
}


_NOTHING = object()


class Mismatch(Exception):
    """A value is not what an annotation says.

    Arguments:
        value: The value, or the item of it that is wrong.
        expected: What would have been right.
        path: Which item is wrong, as ``[1]``; nothing if it is the value.
        remedy: What to do, or nothing.
    """

    def __init__(self, value: Any, expected: str, path: str = "", remedy: str = ""):
        self.value, self.expected, self.path, self.remedy = value, expected, path, remedy
        super().__init__(expected)


def convert(value: Any, hint: Any) -> Any:
    """Returns a value as a field of that annotation holds it: lists as tuples, and numbers as floats.

    Raises:
        Mismatch: If the value is something else.
    """
    hint = getattr(hint, "__value__", hint)  # `type Name = ...` of Python 3.12
    origin = get_origin(hint)
    if hint is Any:
        return _frozen(value)
    if hint in (bool, int, float, str, None, type(None)):
        return _scalar(value, hint)
    if origin in (Union, types.UnionType):
        return _one_of(value, hint)
    if origin is Literal:
        return _literal(value, hint)
    if tuple in (hint, origin) or Sequence in (hint, origin):
        return _tuple(value, hint)
    return _instance(value, hint, origin or hint)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict | bytes | complex):
        raise Mismatch(value, "a number, a string, an object or a tuple of such")
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _scalar(value: Any, hint: Any) -> Any:
    if hint is float and type(value) in (int, float):
        return _finite(value)
    if type(value) is hint or (value is None and hint is None):
        return value
    if hint is int and type(value) is float and value.is_integer():
        raise Mismatch(value, words(hint), remedy=f"; write {int(value)}")
    raise Mismatch(value, words(hint))


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Mismatch(value, "a finite number")
    return number


def _one_of(value: Any, hint: Any) -> Any:
    arms = get_args(hint)
    if type(value) in arms:
        return convert(value, type(value))
    for arm in arms:
        try:
            return convert(value, arm)
        except Mismatch:
            pass
    raise Mismatch(value, words(hint))


def _literal(value: Any, hint: Any) -> Any:
    # compared with their types, since True == 1
    if (type(value), value) in [(type(choice), choice) for choice in get_args(hint)]:
        return value
    raise Mismatch(value, words(hint))


def _tuple(value: Any, hint: Any) -> Any:
    arms = [arm for arm in get_args(hint) if arm is not Ellipsis]
    if not isinstance(value, list | tuple):
        raise Mismatch(value, words(hint), remedy="; a tuple of one item is written (item,)")
    endless = get_origin(hint) is not tuple or Ellipsis in get_args(hint)
    if not endless and len(value) != len(arms):
        raise Mismatch(tuple(value), words(hint))
    if not arms:
        return _frozen(value)
    each = arms * len(value) if endless else arms
    return tuple(_item(item, arm, index) for index, (item, arm) in enumerate(zip(value, each, strict=True)))


def _item(item: Any, hint: Any, index: int) -> Any:
    try:
        return convert(item, hint)
    except Mismatch as error:
        raise Mismatch(error.value, error.expected, f"[{index}]{error.path}", error.remedy) from None


def _instance(value: Any, hint: Any, cls: Any) -> Any:
    if not isinstance(cls, type):
        return value  # nothing that can be told of it, such as a type variable
    if Protocol not in cls.__bases__:
        if isinstance(value, cls):
            return value
        raise Mismatch(value, words(hint))
    for member in _members(cls):
        if inspect.getattr_static(value, member, _NOTHING) is _NOTHING:
            raise Mismatch(value, words(hint), remedy=f"; it has no {member!r}")
    return value


def _members(protocol: type) -> list[str]:
    """Returns the public names, and ``__call__``, that a protocol demands."""
    names: dict[str, None] = {}
    for base in protocol.__mro__:
        if Protocol in base.__bases__:
            names |= dict.fromkeys([*vars(base), *inspect.get_annotations(base)])
    return [name for name in names if not name.startswith("_") or name == "__call__"]


def words(hint: Any) -> str:
    """Returns an annotation in words, to follow "should be"."""
    hint = getattr(hint, "__value__", hint)
    origin, arms = get_origin(hint), get_args(hint)
    if hint in WORDS:
        return WORDS[hint]
    if origin in (Union, types.UnionType):
        return " or ".join(words(arm) for arm in arms)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in arms)
    if tuple in (hint, origin) or Sequence in (hint, origin):
        return _tuple_words(origin, arms)
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _tuple_words(origin: Any, arms: tuple[Any, ...]) -> str:
    if not arms:
        return "the empty tuple ()" if origin is tuple else "a tuple"
    if origin is not tuple or Ellipsis in arms:
        return f"a tuple (each item {words(arms[0])})"
    return f"a tuple ({', '.join(words(arm) for arm in arms)}{',' if len(arms) == 1 else ''})"


def told(value: Any) -> str:
    """Returns a value in words, to follow "not"."""
    if isinstance(value, list | tuple):
        inner = ", ".join(told(item) for item in value)
        text = f"({inner}{',' if len(value) == 1 else ''})"
    elif value is None or isinstance(value, bool | int | float | str | bytes | dict | complex):
        text = repr(value)
    else:
        name = type(value).__name__
        text = f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
    return text if len(text) <= 80 else f"{text[:77]}..."


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Returns the annotations of a class's fields, evaluated."""
    return typing.get_type_hints(cls)
