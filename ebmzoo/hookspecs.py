"""What a plugin may offer.

A plugin is a module named by an entry point of the group ``ebmzoo``; its functions marked with
:data:`ebmzoo.hookimpl` are called. What ships with ebmzoo is offered through the same hooks. Importing a
plugin module should import nothing heavy: torch belongs inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pluggy

hookspec = pluggy.HookspecMarker("ebmzoo")

KINDS = ("methods", "data", "samplers", "metrics", "networks", "parts")
"""The kinds of classes that ``ebmzoo list`` knows; ``parts`` are what other classes are made of."""


@hookspec
def ebmzoo_classes() -> Mapping[str, Sequence[type]]:
    """Offers classes that a gin file may name, by their kind, which is one of :data:`KINDS`.

    Called once, before the first gin file is read. Every class must be a frozen dataclass, and no two may
    have one name.
    """
    return {}


@hookspec
def ebmzoo_reproductions() -> Path:  # type: ignore[empty-body]
    """Offers a folder of tables: ``<paper>/<table>.gin`` and its overlays ``<table>.<scale>.gin``.

    Called for every command that lists or runs tables, hence also where torch is not imported.
    """
