"""What a table would make, and what is kept already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ebmzoo.metrics.features import DataFeatures
from ebmzoo.recipes import Samples, Trained
from ebmzoo.store import DamagedArtifact, Recipe, Store, environment, everything_behind
from ebmzoo.tables import Cell

MARKS = {"kept": "✓", "begun": "◐", "missing": "○"}


@dataclass(frozen=True)
class Plan:
    """What stands behind cells of a table.

    Arguments:
        name: The name of the table.
        scale: The scale.
        cells: The cells.
    """

    name: str
    scale: str
    cells: tuple[Cell, ...]

    def everything(self) -> list[Recipe]:
        """Returns every recipe behind the cells, once."""
        return everything_behind([score for cell in self.cells for score in cell.scores()])

    def to_make(self, store: Store) -> list[Recipe]:
        """Returns every recipe that is missing, less those that only kept ones need."""
        found: dict[str, Recipe] = {}
        waiting: list[Recipe] = [score for cell in self.cells for score in cell.scores()]
        while waiting:
            recipe = waiting.pop()
            if recipe.key not in found and store.state(recipe) != "kept":
                found[recipe.key] = recipe
                waiting += recipe.needs()
        return list(found.values())

    def text(self, store: Store) -> str:
        """Returns the tree of recipes, each with one mark for each seed, and the totals."""
        lines = [
            f"{self.name} · {self.scale} scale",
            "✓ kept   ◐ begun   ○ missing   (one mark for each seed)",
            "",
        ]
        shown: set[str] = set()
        for cell in self.cells:
            lines.append(f"{cell.row} · {cell.column} · {cell.metric}")
            lines += _tree([*cell.scores()], store, shown, depth=1)
        counts = Counter(recipe.kind for recipe in self.to_make(store))
        left = [f"{n} {kind}" for kind, n in sorted(counts.items())]
        lines += ["", f"to make: {', '.join(left)}" if left else "everything is kept"]
        return "\n".join(lines)

    def as_json(self, store: Store) -> dict[str, Any]:
        """Returns every recipe with its state as what JSON knows."""
        recipes = [
            {
                "kind": recipe.kind,
                "key": recipe.key,
                "state": store.state(recipe),
                "artifact": store.folder(recipe).name,
                "needs": [need.key for need in recipe.needs()],
                "about": about(recipe),
            }
            for recipe in self.everything()
        ]
        cells = [
            {
                "row": c.row,
                "column": c.column,
                "metric": c.metric,
                "scores": [score.key for score in c.scores()],
            }
            for c in self.cells
        ]
        return {"table": self.name, "scale": self.scale, "cells": cells, "recipes": recipes}


def about(recipe: Recipe) -> str:
    """Returns what a recipe makes, in a few words."""
    if isinstance(recipe, Trained):
        return f"{type(recipe.method).__name__} on {type(recipe.data).__name__}, {recipe.steps} updates"
    if isinstance(recipe, Samples):
        return f"{recipe.count} by {type(recipe.sampler).__name__}"
    if isinstance(recipe, DataFeatures):
        return f"of {type(recipe.data).__name__}, {recipe.split}"
    return ""


def _tree(seeds: list[Recipe], store: Store, shown: set[str], depth: int) -> Iterator[str]:
    """Yields one line for a recipe over all seeds, then the lines of what it needs."""
    first = seeds[0]
    marks = "".join(MARKS[store.state(recipe)] for recipe in seeds)
    label = f"{'  ' * depth}{marks} {store.folder(first).name} {about(first)}".rstrip()
    if first.key in shown:
        yield f"{label} (above)"
        return
    shown.add(first.key)
    yield label + _other_code(first, store)
    for needs in zip(*(recipe.needs() for recipe in seeds), strict=True):
        yield from _tree(list(dict.fromkeys(needs)), store, shown, depth + 1)


def _other_code(recipe: Recipe, store: Store) -> str:
    """Says so if what is kept was made by another commit; keys follow recipes, not code."""
    if store.state(recipe) != "kept":
        return ""
    try:
        commit = store.run(recipe).get("commit")
    except DamagedArtifact as damaged:
        return f"  (damaged: {damaged.reason})"
    return f"  (made by other code: {commit})" if commit != environment()["commit"] else ""
