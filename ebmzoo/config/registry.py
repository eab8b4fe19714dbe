"""Which plugins there are, and what they offer.

Plugins are loaded one by one, on first use. One that fails, at import or in a hook, is remembered with the
reason and offers nothing from then on; the others are not touched by it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

import ebmzoo
from ebmzoo import hookspecs
from ebmzoo.config.checks import field_types
from ebmzoo.config.errors import ConfigError, nearest

GROUP = "ebmzoo"
"""The entry-point group of plugins."""

BUILTIN = "ebmzoo.builtin"
"""The module that offers, through the same hooks, what ships with ebmzoo."""

VARIABLE = "EBMZOO_PLUGINS"
"""The environment variable that limits which entry points are loaded, by their names between commas."""


@dataclass(frozen=True)
class Plugin:
    """A plugin, usable or not.

    Arguments:
        name: The name of its entry point.
        distribution: The distribution that brings it.
        version: The version of that distribution.
        error: Why it is not used, or None.
    """

    name: str
    distribution: str
    version: str
    error: str | None = None


class Registry:
    """The plugins of this process and what they offer."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        points = entry_points()
        self.add(Plugin("builtin", "ebmzoo", ebmzoo.__version__), lambda: importlib.import_module(BUILTIN))
        for point in points:
            name, version = (point.dist.name, point.dist.version) if point.dist else ("unknown", "unknown")
            self.add(Plugin(point.name, name, version), point.load)

    def add(self, plugin: Plugin, imported: Callable[[], Any]) -> None:
        """Loads a plugin, or remembers why it cannot be."""
        taken = [other.distribution for other in self.plugins if other.name == plugin.name]
        if taken:
            error = f"a plugin of {taken[0]} has the same name"
            self.plugins.append(dataclasses.replace(plugin, error=error))
            return
        self.plugins.append(plugin)
        try:
            module = imported()
        except (Exception, SystemExit) as error:
            self.blame(plugin.name, f"it cannot be imported ({_told(error)})")
            return
        self._register(plugin.name, module)

    def _register(self, name: str, module: Any) -> None:
        try:
            self.manager.register(module, name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            self.blame(name, self._misfit(module) or _told(error))
            return
        if not self.manager.get_hookcallers(module):
            self.blame(name, "it offers nothing: no function of its module is marked with ebmzoo.hookimpl")

    def _misfit(self, module: Any) -> str:
        """Returns which hook of a plugin does not exist, or nothing."""
        callers = self.manager.get_hookcallers(module) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        known = [name for name in vars(hookspecs) if name.startswith("ebmzoo_")]
        return f"there is no hook {unknown[0]!r}{nearest(unknown[0], known)}" if unknown else ""

    def blame(self, name: str, reason: str) -> None:
        """Remembers why a plugin is not used, and uses it no more."""
        index = next(index for index, plugin in enumerate(self.plugins) if plugin.name == name)
        if self.plugins[index].error is None:
            self.plugins[index] = dataclasses.replace(self.plugins[index], error=" ".join(reason.split()))
        if self.manager.has_plugin(name):
            self.manager.unregister(name=name)

    def answers(self, hook: str) -> Iterator[tuple[str, Any]]:
        """Yields every plugin's name and answer to a hook, in the order of registration."""
        for offer in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                answer = offer.function()
            except (Exception, SystemExit) as error:
                self.blame(offer.plugin_name, f"{hook} failed ({_told(error)})")
                continue
            yield offer.plugin_name, answer

    @cached_property
    def folders(self) -> dict[str, Path]:
        """The folders of tables that plugins offer, by the plugins' names."""
        folders = {}
        for name, answer in self.answers("ebmzoo_reproductions"):
            if isinstance(answer, str | os.PathLike) and Path(answer).is_dir():
                folders[name] = Path(answer)
            else:
                self.blame(name, f"ebmzoo_reproductions offers {answer!s}, which is no folder")
        return folders

    @cached_property
    def classes(self) -> dict[str, dict[str, type]]:
        """The classes that plugins offer, by kind and name."""
        offered: dict[str, dict[str, type]] = {kind: {} for kind in hookspecs.KINDS}
        owners: dict[str, tuple[str, type]] = {}
        for name, answer in self.answers("ebmzoo_classes"):
            try:
                checked = list(_checked(answer, owners))
            except (ValueError, TypeError) as error:
                self.blame(name, str(error))
                continue
            for kind, cls in checked:
                offered[kind][cls.__name__] = cls
                owners[cls.__name__] = (name, cls)
        return offered


def entry_points() -> list[metadata.EntryPoint]:
    """Returns the entry points that are to be loaded.

    Raises:
        ConfigError: If EBMZOO_PLUGINS names one that is not there.
    """
    # a distribution that is installed twice, say in place and as a wheel, shows each of its points twice
    found = {(point.name, point.value): point for point in metadata.entry_points(group=GROUP)}
    points = sorted(found.values(), key=lambda point: point.name)
    if VARIABLE not in os.environ:
        return points
    wanted = [name.strip() for name in os.environ[VARIABLE].split(",") if name.strip()]
    names = sorted({point.name for point in points})
    for name in wanted:
        if name not in names:
            hint = nearest(name, names) or f"; installed are: {', '.join(names) or 'none'}."
            raise ConfigError(f"{VARIABLE} names a plugin {name!r}, which is not installed{hint}")
    return [point for point in points if point.name in wanted]


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _checked(answer: Any, owners: Mapping[str, tuple[str, type]]) -> Iterator[tuple[str, type]]:
    """Yields the kinds and classes of an answer; a ValueError says what is wrong with it."""
    if not isinstance(answer, Mapping):
        raise ValueError(f"ebmzoo_classes should return a mapping of kinds to classes, not {answer!r}")
    own: dict[str, type] = {}
    for kind, offered in answer.items():
        if kind not in hookspecs.KINDS:
            raise ValueError(f"there is no kind {kind!r}{nearest(str(kind), hookspecs.KINDS)}")
        for cls in offered:
            _check_class(cls)
            if own.setdefault(cls.__name__, cls) is not cls:
                raise ValueError(f"two of its classes have the name {cls.__name__!r}")
            owner, other = owners.get(cls.__name__, ("", cls))
            if other is not cls:
                raise ValueError(f"{owner!r} offers another class of the name {cls.__name__!r} already")
            yield kind, cls


def _check_class(cls: Any) -> None:
    if not isinstance(cls, type):
        raise ValueError(f"{cls!r} is no class")
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen or "__dataclass_params__" not in vars(cls):
        raise ValueError(f"the class {cls.__name__!r} is no frozen dataclass")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise ValueError(f"the class {cls.__name__!r} is abstract: it does not define {missing}")
    try:
        field_types(cls)
    except Exception as error:
        raise ValueError(f"the annotations of {cls.__name__!r} cannot be read ({_told(error)})") from None


@cache
def registry() -> Registry:
    """Returns the registry of this process, made on first use."""
    return Registry()


def plugins() -> tuple[Plugin, ...]:
    """Returns every plugin, the broken ones with the reason.

    What is wrong with the classes or the folder that a plugin offers is known only after :func:`classes` or
    :func:`~ebmzoo.config.tables` was called.

    Raises:
        ConfigError: If EBMZOO_PLUGINS names a plugin that is not installed.
    """
    return tuple(registry().plugins)


def classes() -> dict[str, dict[str, type]]:
    """Returns every class that a gin file may name, by kind and name. This imports torch.

    A plugin that offers anything but frozen dataclasses of names of their own offers nothing; :func:`plugins`
    says why.
    """
    return {kind: dict(offered) for kind, offered in registry().classes.items()}


def broken() -> str:
    """Returns a sentence that says which plugins are not used and why, or nothing."""
    reasons = [f"{plugin.name} ({plugin.error})" for plugin in registry().plugins if plugin.error]
    return f" Plugins that are not used since they are broken: {', '.join(reasons)}." if reasons else ""
