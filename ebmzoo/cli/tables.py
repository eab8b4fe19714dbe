"""``ebmzoo plan`` and ``ebmzoo reproduce``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import filelock

from ebmzoo.cli.errors import FAILED, OUT_OF_TIME, complain, debugging, paragraph, say_out_of_time, warn
from ebmzoo.cli.options import (
    cell_options,
    cells_of,
    configure,
    json_option,
    open_store,
    runtime_options,
    table_options,
    tables_argument,
    with_seeds,
    workers_option,
    writable,
)
from ebmzoo.config import ConfigError

if TYPE_CHECKING:
    from ebmzoo.config import Configured
    from ebmzoo.executors import Executor
    from ebmzoo.store import Recipe, Store
    from ebmzoo.tables import Cell


@click.command()
@tables_argument
@table_options
@cell_options
@runtime_options
@workers_option
@json_option
def plan(
    names: tuple[str, ...],
    scale: str,
    sets: tuple[str, ...],
    files: tuple[str, ...],
    root: Path,
    data: Path | None,
    weights: Path | None,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    metrics: tuple[str, ...],
    seeds: int | None,
    device: str,
    compiled: bool,
    time_limit: float | None,
    workers: int,
    as_json: bool,
) -> None:
    """Show what would be made; make nothing.

    Takes all options of `ebmzoo reproduce`; those that change no number change nothing here.
    """
    del device, compiled, time_limit, workers
    asked = [with_seeds(each, seeds) for each in configure(names, scale, sets, files, data, weights)]
    from ebmzoo.plans import Plan
    from ebmzoo.store import Store

    store = Store(root)
    plans = [Plan(each.name, each.scale, tuple(cells_of(each, rows, columns, metrics))) for each in asked]
    if as_json:
        click.echo(json.dumps(_one_or_all([each.as_json(store) for each in plans]), indent=1))
    else:
        click.echo("\n\n".join(each.text(store) for each in plans))


@click.command()
@tables_argument
@table_options
@cell_options
@runtime_options
@workers_option
@json_option
@click.pass_context
def reproduce(
    context: click.Context,
    names: tuple[str, ...],
    scale: str,
    sets: tuple[str, ...],
    files: tuple[str, ...],
    root: Path,
    data: Path | None,
    weights: Path | None,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    metrics: tuple[str, ...],
    seeds: int | None,
    device: str,
    compiled: bool,
    time_limit: float | None,
    workers: int,
    as_json: bool,
) -> None:
    """Make tables and print them.

    Makes every cell that is not kept yet, and prints it beside what was published. What is printed is also
    written into the store, with the table's pictures: as table.txt, or as selection.txt if only some cells
    were asked for.
    """
    asked = [with_seeds(each, seeds) for each in configure(names, scale, sets, files, data, weights)]
    chosen = [cells_of(each, rows, columns, metrics) for each in asked]
    executor = _executor(workers)
    store = open_store(root, device, compiled, time_limit)
    failed = late = False
    documents = []
    for configured, cells in zip(asked, chosen, strict=True):
        document, table_failed, table_late = _reproduce(configured, cells, store, executor, as_json)
        documents.append(document)
        failed, late = failed or table_failed, late or table_late
    if as_json:
        click.echo(json.dumps(_one_or_all(documents), indent=1))
    if late:
        say_out_of_time()
    context.exit(OUT_OF_TIME if late else FAILED if failed else 0)


def _executor(workers: int) -> Executor:
    """Returns who makes cells.

    Raises:
        UsageError: If several processes should show the traceback of one.
    """
    from ebmzoo.executors import InProcess
    from ebmzoo.workers import Processes

    if workers == 1:
        return InProcess(debugging())
    if debugging():
        raise click.UsageError("--debug ends with the first error's traceback, so it needs --workers 1")
    return Processes(workers)


def _reproduce(
    configured: Configured, cells: list[Cell], store: Store, executor: Executor, as_json: bool
) -> tuple[dict[str, Any], bool, bool]:
    """Makes a table; returns it as JSON, whether anything of it failed, and whether time ran out."""
    from ebmzoo import rendering
    from ebmzoo.execution import measure
    from ebmzoo.store import everything_behind, write
    from ebmzoo.verdicts import Outcome

    folder = table_folder(store.root, configured)
    behind = everything_behind([score for cell in cells for score in cell.scores()])
    keeps = writable(folder)
    if keeps:
        note_references(folder, [recipe.key for recipe in behind])
    else:
        warn(f"{store.root} cannot be written: the table is printed, and neither kept there nor drawn")
    measured = measure(cells, store, executor)
    outcome = Outcome(
        configured.name, configured.scale, configured.table, tuple(measured.results), configured.overrides
    )
    document = rendering.as_json(outcome)
    if keeps:
        with _alone_in(folder):
            name = "table" if len(cells) == len(list(configured.table.flat())) else "selection"
            write(folder / f"{name}.json", json.dumps(document, indent=1) + "\n")
            write(folder / f"{name}.txt", rendering.text(outcome) + "\n")
    if not as_json:
        click.echo(rendering.text(outcome))
    drawn = True
    if keeps and not measured.out_of_time:
        with _alone_in(folder):
            drawn = _draw(configured, store, folder, behind, to_stderr=as_json)
    return document, measured.failed or not drawn, measured.out_of_time


def _draw(
    configured: Configured, store: Store, folder: Path, asked: Collection[Recipe], to_stderr: bool
) -> bool:
    """Draws the figures that are due; returns whether none of them failed.

    Those that show something of what was asked for, and cannot be drawn yet, are named.
    """
    from ebmzoo import figures

    well = True
    undrawn = []
    for figure in configured.table.figures:
        try:
            paths = list(figures.due([figure], store, folder))
        except (ValueError, RuntimeError, OSError) as error:
            if debugging():
                raise
            complain(f"figure {figure.name}: {paragraph(error)}")
            well = False
            continue
        for path in paths:
            click.echo(f"figure: {path}", err=to_stderr)
        if not paths and not set(asked).isdisjoint(figure.needs()):
            undrawn.append(figure.name)
    if undrawn:
        click.echo(f"not drawn, since not all that is shown is made: {', '.join(undrawn)}", err=True)
    return well


def table_folder(root: Path, configured: Configured) -> Path:
    """Returns where a table's text, JSON and figures go; one folder for each set of bindings."""
    slug = configured.name.removesuffix(".gin").replace("/", "-").strip("-.")[-80:]
    digest = hashlib.sha256("\n".join(configured.bindings).encode()).hexdigest()
    return root / "tables" / f"{slug}.{configured.scale}.{digest[:8]}"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Lets one process at a time write into a table's folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        yield


def note_references(folder: Path, keys: list[str]) -> None:
    """Notes which artifacts a table needs, besides those noted before, so that pruning leaves them alone."""
    from ebmzoo.store import write

    with _alone_in(folder):
        path = folder / "references.json"
        known = references(path) if path.exists() else []
        write(path, json.dumps(sorted({*known, *keys}), indent=0) + "\n")


def references(path: Path) -> list[str]:
    """Returns the keys of the artifacts that a table needs.

    Raises:
        ConfigError: If the file is damaged.
    """
    try:
        keys: list[str] = json.loads(path.read_text())
    except ValueError:
        raise ConfigError(
            f"{path} cannot be read, so nothing tells what its table needs; remove that file, and say "
            "`ebmzoo reproduce` of the table before you prune"
        ) from None
    return keys


def _one_or_all(documents: list[Any]) -> Any:
    """A single table is printed as itself, several as a list."""
    return documents[0] if len(documents) == 1 else documents
