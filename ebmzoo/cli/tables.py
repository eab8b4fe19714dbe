"""``ebmzoo plan`` and ``ebmzoo reproduce``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

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
    from ebmzoo.store import alone_in, everything_behind
    from ebmzoo.verdicts import MeasuredTable

    folder = table_folder(store.root, configured)
    behind = everything_behind([score for cell in cells for score in cell.scores()])
    keeps = writable(folder)
    if not keeps:
        warn(f"{store.root} cannot be written: the table is printed, and neither kept there nor drawn")
    well = not keeps or _noted(folder, behind)
    measured = measure(cells, store, executor)
    made = MeasuredTable(
        configured.name, configured.scale, configured.table, tuple(measured.results), configured.overrides
    )
    document, text = rendering.as_json(made), rendering.text(made)
    if not as_json:
        click.echo(text)
    if keeps:
        name = "table" if len(cells) == len(list(configured.table.flat())) else "selection"
        with alone_in(folder):
            written = _write(folder / name, document, text)
            due = written and not measured.out_of_time
            drawn = not due or _draw(configured, store, folder, behind, to_stderr=as_json)
        well = well and written and drawn
    return document, measured.failed or not well, measured.out_of_time


def _noted(folder: Path, behind: Collection[Recipe]) -> bool:
    """Notes what a table needs; returns whether that was possible."""
    from ebmzoo.store import StoreError, note_references

    try:
        note_references(folder, [recipe.key for recipe in behind])
    except (OSError, StoreError) as error:
        complain(paragraph(error))
        return False
    return True


def _write(stem: Path, document: dict[str, Any], text: str) -> bool:
    """Writes a table as JSON and as text; returns whether that was possible."""
    from ebmzoo.store import write

    try:
        write(stem.with_name(f"{stem.name}.json"), json.dumps(document, indent=1) + "\n")
        write(stem.with_name(f"{stem.name}.txt"), text + "\n")
    except OSError as error:
        complain(paragraph(error))
        return False
    return True


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
        except Exception as error:  # whatever a plugin's figure raises, the table is there
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


def _one_or_all(documents: list[Any]) -> Any:
    """A single table is printed as itself, several as a list."""
    return documents[0] if len(documents) == 1 else documents
