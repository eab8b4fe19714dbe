"""The state of an artifact's folder, by what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from ebmzoo.store.files import canonical, read_json, sha256_of


class Kept(NamedTuple):
    """A folder of the shelf, as ``store list`` and ``store verify`` see it.

    Arguments:
        folder: The folder.
        state: ``whole``, ``begun`` or ``damaged``.
        reason: Why it counts as damaged, or nothing.
        recipe: What ``recipe.json`` says.
        run: What ``run.json`` says.
    """

    folder: Path
    state: str
    reason: str = ""
    recipe: dict[str, Any] = {}  # noqa: RUF012
    run: dict[str, Any] = {}  # noqa: RUF012

    @property
    def bytes(self) -> int:
        """The space that the folder takes."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def inspect(folder: Path) -> Kept:
    """Returns the state of an artifact's folder, with its checksum compared."""
    try:
        recipe = read_json(folder / "recipe.json")
        intact = recipe["key"] == hashlib.sha256(canonical(recipe["description"]).encode()).hexdigest()
    except FileNotFoundError:
        return Kept(
            folder, "damaged" if list(folder.glob("artifact.*")) else "begun", "recipe.json is missing"
        )
    except (ValueError, KeyError, TypeError):
        return Kept(folder, "damaged", "recipe.json cannot be read")
    if not intact or not folder.name.endswith(recipe["key"][:12]):
        return Kept(folder, "damaged", "recipe.json does not describe what the folder's name says")
    artifacts = [path for path in folder.glob("artifact.*") if path.suffix != ".part"]
    if not artifacts:
        return Kept(folder, "begun", recipe=recipe)
    try:
        run = read_json(folder / "run.json")
        size, digest = run["artifact"]["bytes"], run["artifact"]["sha256"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Kept(folder, "damaged", "run.json is missing or cannot be read", recipe)
    if artifacts[0].stat().st_size != size:
        return Kept(folder, "damaged", f"{artifacts[0].name} is not {size} bytes long", recipe, run)
    if sha256_of(artifacts[0]) != digest:
        return Kept(
            folder, "damaged", f"the checksum of {artifacts[0].name} is not that in run.json", recipe, run
        )
    return Kept(folder, "whole", recipe=recipe, run=run)
