"""What the tables of a store need, so that pruning leaves it alone.

A table that was ever asked for in a store has a folder ``tables/*`` there, with the keys of what it needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ebmzoo.store.errors import StoreError
from ebmzoo.store.files import read_json, write

NAME = "references.json"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lets one process at a time write into a table's folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        yield


def note_references(folder: Path, keys: Iterable[str]) -> None:
    """Notes the keys of artifacts that a table needs, besides those noted before.

    Raises:
        StoreError: If what was noted before is damaged.
    """
    with alone_in(folder):
        path = folder / NAME
        known = _noted(path) if path.exists() else []
        write(path, json.dumps(sorted({*known, *keys}), indent=0) + "\n")


def referenced(root: Path) -> set[str]:
    """Returns the keys of the artifacts that the tables of a store need.

    Raises:
        StoreError: If what was noted is damaged.
    """
    return {key for path in (root / "tables").glob(f"*/{NAME}") for key in _noted(path)}


def _noted(path: Path) -> list[str]:
    try:
        keys = read_json(path)
    except ValueError:
        keys = None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise StoreError(
            f"{path} cannot be read, so nothing tells what its table needs; remove that file, and say "
            "`ebmzoo reproduce` of the table before you prune"
        )
    return keys
