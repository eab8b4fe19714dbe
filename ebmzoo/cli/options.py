"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ebmzoo.cli.errors import DEBUG, stop_on_signals, warn
from ebmzoo.config import SCALES, ConfigError, load, nearest, plugins, tables

if TYPE_CHECKING:
    from ebmzoo.config import Configured
    from ebmzoo.store import Store
    from ebmzoo.tables import Cell

Function = TypeVar("Function", bound=Callable[..., Any])

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType):
    """A time such as ``90``, ``30s``, ``9m`` or ``1.5h``, in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the seconds."""
        if isinstance(value, float):
            return value
        digits, unit = (value[:-1], value[-1]) if value[-1:] in UNITS else (value, "s")
        try:
            seconds = float(digits) * UNITS[unit]
        except ValueError:
            self.fail(f"{value!r} is no time; write it like 30s, 9m or 1.5h", param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} should be a time above zero", param, ctx)
        return seconds


class TableName(click.ParamType):
    """The name of a table, with shell completion."""

    name = "table"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Returns the tables whose names begin as typed."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in sorted(tables()) if name.startswith(incomplete)]


def _stack(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    return lambda function: functools.reduce(lambda inner, add: add(inner), reversed(decorators), function)


def _remember_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    context.meta[DEBUG] = value


class Folder(click.Path):
    """The path of a folder, which may not exist yet."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path."""
        if value == "":
            self.fail("an empty name is no folder; '.' is the current one", param, ctx)
        return super().convert(value, param, ctx)


def existing(folder: Path) -> Path:
    """Returns a folder, or the innermost one around it that is there."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def writable(folder: Path) -> bool:
    """Whether a folder can be written, or made where it is not there yet."""
    there = existing(folder)
    return there.is_dir() and os.access(there, os.W_OK)


def check_folder(file: Path, name: str) -> None:
    """Raises ConfigError unless a file can be written where ``name``, an option or argument, has it."""
    folder = file.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"{name} {file} is in a folder that does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{name} {file} is in a folder that cannot be written; name another")


store_option = click.option(
    "--store", "root", type=Folder(), envvar="EBMZOO_STORE", metavar="DIR",
    default=Path("artifacts"), show_default=True, help="Where artifacts are kept (EBMZOO_STORE).",
)  # fmt: skip
debug_option = click.option(
    "--debug", is_flag=True, is_eager=True, expose_value=False, callback=_remember_debug,
    help="Show the traceback of an error.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
tables_argument = click.argument("names", metavar="TABLE...", nargs=-1, required=True, type=TableName())

table_options = _stack(
    click.option(
        "--scale", type=click.Choice(SCALES), default="laptop", show_default=True,
        help="How much compute: the paper's, a laptop's, or a smoke test's.",
    ),
    click.option(
        "--set", "sets", multiple=True, metavar="BINDING",
        help="A binding scope/Class.field=value that comes last; repeatable.",
    ),
    click.option("--gin", "files", multiple=True, metavar="FILE", help="A further gin file; repeatable."),
    store_option,
    click.option(
        "--data", type=click.Path(path_type=Path, exists=True, file_okay=False), envvar="EBMZOO_DATA",
        show_envvar=True, metavar="DIR", help="Where data sets are that are not built in.",
    ),
    click.option(
        "--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
        help="Inception's weights, for FID and IS (EBMZOO_INCEPTION).",
    ),
    debug_option,
)  # fmt: skip

cell_options = _stack(
    click.option(
        "--rows", multiple=True, metavar="GLOB", help="Only rows like this; repeatable, or with commas."
    ),
    click.option("--columns", multiple=True, metavar="GLOB", help="Only columns like this; likewise."),
    click.option("--metrics", multiple=True, metavar="GLOB", help="Only metrics like this; likewise."),
    click.option(
        "--seeds", type=click.IntRange(1), metavar="N", help="Seeds for each cell, instead of the table's."
    ),
)

runtime_options = _stack(
    click.option(
        "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:<i>."
    ),
    click.option(
        "--compile/--no-compile", "compiled", default=False,
        help="Compile the chains' steps: 10 to 60 s for each network and kernel on a CPU, then faster ones.",
    ),
    click.option("--time-limit", type=Duration(), metavar="TIME", help="Stop cleanly after 30s, 9m or 1.5h."),
)  # fmt: skip
workers_option = click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N",
    help="Make so many cells at a time, in processes that share the cores.",
)  # fmt: skip


def warn_of_broken_plugins() -> None:
    """Names every plugin that could not be loaded; the others work."""
    for plugin in plugins():
        if plugin.error:
            warn(f"plugin {plugin.name} of {plugin.distribution} is left out: {plugin.error}")


def configure(
    names: Sequence[str],
    scale: str,
    sets: Sequence[str],
    files: Sequence[str],
    data: Path | None,
    weights: Path | None,
) -> list[Configured]:
    """Returns tables as they were asked for."""
    for variable, path in (("EBMZOO_DATA", data), ("EBMZOO_INCEPTION", weights)):
        if path is not None:
            os.environ[variable] = str(path)
    try:
        return [load(name, scale, sets, [Path(file) for file in files]) for name in names]
    finally:
        warn_of_broken_plugins()


def with_seeds(configured: Configured, seeds: int | None) -> Configured:
    """Returns a table with another number of seeds in every cell, if one was asked for."""
    if seeds is None:
        return configured
    table = configured.table.with_seeds(seeds)
    said = f"--seeds {seeds}"
    bindings, overrides = (*configured.bindings, said), configured.overrides
    if table != configured.table:
        overrides = (*overrides, said)
    return dataclasses.replace(configured, table=table, bindings=bindings, overrides=overrides)


def cells_of(
    configured: Configured, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str] = ()
) -> list[Cell]:
    """Returns the cells that were asked for.

    Raises:
        ConfigError: If there are none.
    """
    from ebmzoo.execution import selected

    table = configured.table
    row_patterns = _patterns(rows, {cell.row for cell in table.flat()}, f"{configured.name} has no row")
    column_patterns = _patterns(
        columns, {cell.column for cell in table.flat()}, f"{configured.name} has no column"
    )
    metric_patterns = _patterns(
        metrics, {cell.metric for cell in table.flat()}, f"{configured.name} has no metric"
    )
    cells = selected(table, row_patterns, column_patterns, metric_patterns)
    if not cells:
        given = [each for each in (row_patterns, column_patterns, metric_patterns) if each]
        asked = " · ".join(", ".join(each) for each in given)
        measured = sorted({cell.metric for cell in selected(table, row_patterns, column_patterns)})
        hint = f"; what is measured there is {', '.join(measured)}" if measured else ""
        raise ConfigError(f"{configured.name} has no cell that matches {asked}{hint}")
    return cells


def _patterns(options: Sequence[str], names: Collection[str], lack: str) -> list[str]:
    """Returns the patterns of options, split at commas unless an option is itself one of the names.

    Raises:
        ConfigError: If nothing matches a pattern; it begins with the words of ``lack``.
    """
    from ebmzoo.execution import matches

    patterns: list[str] = []
    for option in options:
        patterns += [option] if option in names else [part.strip() for part in option.split(",")]
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            hint = nearest(pattern, names) or f"; there are {', '.join(sorted(names))}"
            raise ConfigError(f"{lack} that matches {pattern!r}{hint}")
    return patterns


def open_store(
    root: Path, device: str = "cpu", compiled: bool = False, time_limit: float | None = None
) -> Store:
    """Returns the store, with how work is to be done."""
    from ebmzoo.execution import device_named
    from ebmzoo.runtime import Deadline, Runtime, keep_freed_memory
    from ebmzoo.store import Store

    keep_freed_memory()
    device, deadline = device_named(device), Deadline(time_limit)
    click.get_current_context().call_on_close(stop_on_signals(deadline))
    command = shlex.join(["ebmzoo", *sys.argv[1:]])
    return Store(root, Runtime(device, compiled, deadline, command))
