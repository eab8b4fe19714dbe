"""From the name of a table to its value: the only gin, and the only plugin manager.

Plugins offer frozen dataclasses and folders of tables through :mod:`ebmzoo.hookspecs`. :func:`load` reads a
table as gin files and bindings, builds one value of them, and is then over: nothing of gin is left behind.

A table is read in layers, each of which may change what an earlier one said:

1. ``<table>.gin``, which says what the paper says;
2. the overlay ``<table>.<scale>.gin``, which changes compute only; the scale ``paper`` has none;
3. the files given with ``--gin``, in their order;
4. the bindings given with ``--set``, in their order.

gin itself is silent about a binding that nothing reads, so that a mistyped scope prints another row's number.
Here every binding must be read when its layer, or a later one, is the last. Bindings of included files are
exempt, since one file of bases serves many tables.

Every mistake of a user is a :class:`ConfigError`: one paragraph that says what, where, and what to do.
"""

from ebmzoo.config.errors import ConfigError, nearest
from ebmzoo.config.layers import Configured, load
from ebmzoo.config.registry import Plugin, classes, plugins
from ebmzoo.config.sources import SCALES, tables

__all__ = [
    "SCALES",
    "ConfigError",
    "Configured",
    "Plugin",
    "classes",
    "load",
    "nearest",
    "plugins",
    "tables",
]
