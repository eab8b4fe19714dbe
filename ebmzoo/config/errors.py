"""How a user's mistake is told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A request that cannot be met as it was written.

    Arguments:
        text: What is wrong, where it was written, and the remedy. Line breaks become blanks.
    """

    def __init__(self, text: str):
        super().__init__(" ".join(line.strip() for line in text.splitlines() if line.strip()))


class Incomplete(ConfigError):
    """Something lacks a value, which a later file or binding may give."""


def closest(word: str, candidates: Iterable[str]) -> str | None:
    """Returns the candidate that is most like a word, if any is. Upper and lower case count as alike."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(word.casefold(), folded, n=1)
    return folded[matches[0]] if matches else None


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the candidate that is most like a word, or nothing."""
    match = closest(word, candidates)
    return "" if match is None else f"; did you mean {match!r}?"
