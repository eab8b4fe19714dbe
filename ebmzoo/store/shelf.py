"""Recipes, and the shelf that makes each of them once.

The key of a recipe is the hash of its canonical description. It follows what the recipe says and not how the
code is written, so a refactoring leaves artifacts where they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import filelock
import torch
from torch import Generator

from ebmzoo.runtime import OutOfTime, Runtime, say
from ebmzoo.store.errors import DamagedArtifact, StoreError
from ebmzoo.store.files import canonical, pretty, read_json, replace, sha256_of, write
from ebmzoo.store.inspection import Kept, inspect
from ebmzoo.store.provenance import device_name, environment


def class_name(cls: type) -> str:
    """Returns the name of a class in descriptions: its top package and its own name.

    Modules between the two are left out, so that a class may move within its package and artifacts keep
    their keys.
    """
    return f"{cls.__module__.partition('.')[0]}.{cls.__qualname__}"


def describe(value: Any) -> Any:
    """Returns the canonical description of a value, made of what JSON knows.

    Values that are equal have equal descriptions: a float without a fraction is written as an integer, and a
    field declared by :func:`~ebmzoo.fields.added` is left out while it has its default.

    Raises:
        TypeError: If the value, or one within it, is no frozen dataclass, tuple, string, finite number, bool
            or None.
    """
    if _is_frozen_dataclass(value):
        fields = {
            field.name: describe(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("added") and getattr(value, field.name) == field.default)
        }
        version = {"version": value.version} if isinstance(value, Recipe) else {}
        return {"class": class_name(type(value)), **version, **fields}
    if isinstance(value, tuple):
        return [describe(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    raise TypeError(f"{value!r} cannot be part of a recipe")


def _is_frozen_dataclass(value: Any) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


class Recipe(ABC):
    """A frozen dataclass that names an artifact and makes it."""

    version: ClassVar[int] = 1
    """Raised when :meth:`make` changes its mind, so that artifacts of the old one are not taken for new."""

    artifact: ClassVar[str]
    """The file name of the artifact."""

    @cached_property
    def key(self) -> str:
        """The address of the artifact: the SHA-256 of the recipe's canonical description."""
        return hashlib.sha256(canonical(describe(self)).encode()).hexdigest()

    @property
    def kind(self) -> str:
        """The kind of artifact, as folder names show it."""
        return type(self).__name__.lower()

    def rng(self, purpose: str, device: torch.device | str = "cpu") -> Generator:
        """Returns a fresh random generator that depends on the key and the purpose only.

        Arguments:
            purpose: What the randomness is for; each purpose has a stream of its own.
            device: Where the generator draws. Streams differ between devices.
        """
        digest = hashlib.sha256(f"{self.key}/{purpose}".encode()).digest()
        return Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    def needs(self) -> tuple[Recipe, ...]:
        """Returns the recipes among the fields' values, however deep, but not theirs in turn."""
        return tuple(dict.fromkeys(recipes_within(self)))

    @abstractmethod
    def make(self, store: Store, folder: Path) -> dict[str, Any]:
        """Makes the artifact, going on from what an earlier call left in ``folder``.

        Arguments:
            store: Where what the recipe needs is found, and how work is to be done.
            folder: The artifact's own folder. The artifact is written to :func:`unfinished` of it; the store
                renames it.

        Returns:
            What is to be recorded in ``run.json``.
        """

    @abstractmethod
    def open(self, store: Store, kept: Path) -> Any:
        """Returns what the artifact at the path ``kept`` holds."""


def recipes_within(value: Any) -> Iterator[Recipe]:
    """Yields the recipes among a value's fields and items, however deep, but none within those."""
    parts = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value):
        parts = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    for part in parts:
        if isinstance(part, Recipe):
            yield part
        else:
            yield from recipes_within(part)


def everything_behind(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Returns the recipes and all that they need, each once, needed ones first."""
    found: dict[str, Recipe] = {}
    for recipe in recipes:
        for need in everything_behind(recipe.needs()):
            found.setdefault(need.key, need)
        found.setdefault(recipe.key, recipe)
    return list(found.values())


class Store:
    """A shelf of artifacts.

    Arguments:
        root: The folder of the shelf. It is made when something is put there.
        runtime: How work is done.
    """

    def __init__(self, root: Path | str, runtime: Runtime | None = None):
        self.root = Path(root)
        self.runtime = runtime or Runtime()
        self._failed: dict[str, Exception] = {}

    @property
    def failed(self) -> tuple[str, ...]:
        """The keys of the recipes that could not be made, those that others were made for first."""
        return tuple(self._failed)

    def folder(self, recipe: Recipe) -> Path:
        """Returns the folder of a recipe's artifact, whether or not it is there."""
        return self.root / f"{recipe.kind}-{recipe.key[:12]}"

    def state(self, recipe: Recipe) -> str:
        """Returns ``kept``, ``begun`` or ``missing``, by what files there are."""
        folder = self.folder(recipe)
        if (folder / recipe.artifact).exists():
            return "kept"
        return "begun" if (folder / "recipe.json").exists() else "missing"

    def get(self, recipe: Recipe) -> Any:
        """Returns what a recipe makes; makes it first if it is not on the shelf.

        Any number of processes may ask for the same artifact at once: one makes it, the others wait.

        Raises:
            DamagedArtifact: If what is on the shelf is not what was put there.
            OutOfTime: If the deadline came first. What was done is kept.
            Exception: Whatever making it raises; asked for again, the same error comes at once.
        """
        if recipe.key in self._failed:
            raise self._failed[recipe.key]
        if self.state(recipe) != "kept":
            with self.locked(self.folder(recipe)):
                if self.state(recipe) != "kept":
                    self._make_or_remember(recipe)
        return self.open(recipe)

    def open(self, recipe: Recipe) -> Any:
        """Returns what a kept artifact holds, after its checksum was compared.

        Raises:
            DamagedArtifact: If it is not what was put on the shelf.
        """
        self._check(recipe)
        return recipe.open(self, self.folder(recipe) / recipe.artifact)

    def _check(self, recipe: Recipe) -> None:
        """Raises DamagedArtifact if what is in a recipe's folder is damaged, or is another recipe's."""
        folder = self.folder(recipe)
        found = inspect(folder)
        if found.state == "damaged":
            raise DamagedArtifact(folder, found.reason)
        if found.recipe.get("key", recipe.key) != recipe.key:
            raise DamagedArtifact(folder, "it belongs to another recipe whose key begins alike")

    def run(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the provenance of a kept artifact.

        Raises:
            DamagedArtifact: If it cannot be read.
        """
        folder = self.folder(recipe)
        try:
            record: dict[str, Any] = read_json(folder / "run.json")
        except (OSError, ValueError):
            record = {}
        if not isinstance(record, dict) or not record:
            raise DamagedArtifact(folder, "run.json is missing or cannot be read")
        return record

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Holds the lock of an artifact's folder, waiting for it until the deadline."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock")
        told = False
        while True:
            try:
                lock.acquire(timeout=0 if not told else 0.5)
                break
            except filelock.Timeout:
                if not told:
                    say(f"{folder.name}: another process makes it; waiting")
                told = True
                self.runtime.deadline.check()
        try:
            yield
        finally:
            lock.release()

    def _make_or_remember(self, recipe: Recipe) -> None:
        try:
            self._make(recipe)
        except OutOfTime:
            raise
        except Exception as error:
            self._failed[recipe.key] = error
            raise

    def _make(self, recipe: Recipe) -> None:
        self.runtime.deadline.check()
        folder = self.folder(recipe)
        folder.mkdir(parents=True, exist_ok=True)
        self._check(recipe)
        write(folder / "recipe.json", pretty(recipe_record(recipe)))
        began = time.time()
        facts = recipe.make(self, folder)
        made = unfinished(folder, recipe)
        record = {
            **facts,
            **environment(),
            "command": self.runtime.command,
            "device": device_name(self.runtime.device),
            "compiled": self.runtime.compiled,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "last_session_seconds": round(time.time() - began, 3),
            "artifact": {"bytes": made.stat().st_size, "sha256": sha256_of(made)},
        }
        write(folder / "run.json", pretty(record))
        replace(made, folder / recipe.artifact)
        self.tidy(folder)

    @staticmethod
    def tidy(folder: Path) -> None:
        """Removes what was needed to go on with an artifact that is whole now."""
        for path in [*folder.glob("checkpoint*"), *folder.glob("shard-*")]:
            path.unlink(missing_ok=True)

    def contents(self) -> list[Kept]:
        """Returns every artifact's folder, inspected, in the order of their names."""
        if not self.root.exists():
            return []
        return [inspect(path) for path in sorted(self.root.iterdir()) if (path / ".lock").exists()]

    def remove(self, kept: Kept) -> None:
        """Removes a folder of the shelf, unless another process is at work in it.

        Raises:
            StoreError: If another process holds its lock.
        """
        lock = filelock.FileLock(kept.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StoreError(
                f"{kept.folder} is in use by another process; nothing of it was removed"
            ) from None
        try:
            shutil.rmtree(kept.folder)
        finally:
            lock.release()


def unfinished(folder: Path, recipe: Recipe) -> Path:
    """Returns where a recipe writes its artifact before the store renames it."""
    return folder / f"{recipe.artifact}.part"


def recipe_record(recipe: Recipe) -> dict[str, Any]:
    """Returns what ``recipe.json`` says of a recipe."""
    needs = [{"kind": need.kind, "key": need.key} for need in recipe.needs()]
    return {"key": recipe.key, "kind": recipe.kind, "needs": needs, "description": describe(recipe)}
