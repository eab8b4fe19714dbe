"""A table's files and bindings, layer upon layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebmzoo.config.bindings import Binding, Key, Layer, Reader
from ebmzoo.config.build import Build, outer_scopes
from ebmzoo.config.errors import ConfigError, Incomplete, nearest
from ebmzoo.config.registry import classes
from ebmzoo.config.sources import find, overlay


@dataclass(frozen=True)
class Configured:
    """A table as it was asked for.

    Arguments:
        name: What was asked for: the table's name, or a file.
        scale: The scale.
        table: The value.
        overrides: The bindings that it was made from and that the table lacks at the scale ``paper``. A file
            that includes a table is compared with that one.
        bindings: All bindings that it was made from.
    """

    name: str
    scale: str
    table: Any
    overrides: tuple[str, ...]
    bindings: tuple[str, ...]


def load(
    name: str, scale: str = "laptop", sets: Sequence[str] = (), files: Sequence[Path] = ()
) -> Configured:
    """Returns a table, made of its gin file and what is to differ from it. This imports torch.

    Arguments:
        name: A table's name, such as ``tilting/toy``, or the path of a gin file.
        scale: One of :data:`~ebmzoo.config.SCALES`.
        sets: Bindings ``scope/Class.field=value``. They come last.
        files: Further gin files, read before those bindings.

    Raises:
        ConfigError: If the request cannot be met, whatever the mistake.
    """
    path = find(name)
    over = overlay(path, scale)
    known = {name: cls for offered in classes().values() for name, cls in offered.items()}
    reader = Reader(known)
    own = reader.file(path)
    paper = reader.original(path) or own
    layers = [
        own,
        *([reader.file(over)] if over else []),
        _merged(reader.file(Path(file)) for file in files),
        _merged(reader.setting(text) for text in sets),
    ]
    table, used = Layers(known, path, layers).build()
    changed = [each for each in used if each.key not in paper or paper[each.key].value != each.value]
    return Configured(name, scale, table, tuple(map(str, changed)), tuple(map(str, used)))


def _merged(layers: Iterable[Layer]) -> Layer:
    merged: Layer = {}
    for layer in layers:
        merged |= layer
    return merged


class Layers:
    """Bindings in layers, each of which must be read when its layer, or a later one, is the last.

    So a binding may lose its reader to a later layer, as when ``--set`` replaces the sampler whose step size
    the table binds, but never without one.

    Arguments:
        classes: The classes that may be named.
        path: The table's own file.
        layers: The layers, the earliest first.
    """

    def __init__(self, classes: Mapping[str, type], path: Path, layers: Sequence[Layer]):
        self.classes, self.path = classes, path
        self.layers = [layer for index, layer in enumerate(layers) if layer or index == 0]
        self.builds: list[Build] = []

    def build(self) -> tuple[Any, list[Binding]]:
        """Returns the value that all layers make, and the bindings that were read for it."""
        effective: Layer = {}
        waiting: Layer = {}
        judged: list[Binding] = []
        for layer in self.layers:
            effective, waiting = effective | layer, waiting | layer
            build = Build(self.classes, effective, self.path)
            try:
                table = build.table()
            except Incomplete:
                if layer is self.layers[-1]:
                    raise
                continue  # a later layer may complete it, and is then judged together with this one
            self.builds.append(build)
            judged += [binding for binding in waiting.values() if not binding.shared]
            waiting = {}
        self._check_read(judged)
        return table, [binding for binding in effective.values() if binding in build.read]

    def _check_read(self, judged: list[Binding]) -> None:
        for binding in judged:
            if not any(binding in build.read for build in self.builds):
                key = binding.key
                why = self._why_unread(key) if key.owner else self._why_unused(key.scope)
                raise ConfigError(f"Nothing reads {key} ({binding.where}){why}")

    def _why_unused(self, macro: str) -> str:
        keys = [binding.key for binding in self.builds[-1].read]
        hint = nearest(macro, [key.scope for key in keys if not key.owner])
        return hint or f": %{macro} is no one's value. A field is bound as scope/Class.field = value."

    def _why_unread(self, key: Key) -> str:
        build = self.builds[-1]
        scopes = sorted(build.made.get(key.owner, ()))
        if not scopes:
            return f": nothing makes a {key.owner}. Remove it, or refer to @{key.owner}() somewhere."
        within = [scope for scope in scopes if key.scope in outer_scopes(scope)]
        if within:
            holders = dict.fromkeys(build.holding(key._replace(scope=scope)) for scope in within)
            stronger = ", ".join(f"{holder.key} ({holder.where})" for holder in holders)
            return f": every {key.owner} made there has a value of its own. Bind that instead: {stronger}."
        there = ", ".join(repr(scope) if scope else "no scope" for scope in scopes[:5])
        more = ", …" if len(scopes) > 5 else ""
        hint = nearest(key.scope, [outer for scope in scopes for outer in outer_scopes(scope) if outer])
        return f": no {key.owner} is made in the scope {key.scope!r}, but in {there}{more}{hint}"
