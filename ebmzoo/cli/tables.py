"""``ebmzoo plan`` and ``ebmzoo reproduce``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmzoo.cli.errors import FAILED, OUT_OF_TIME, say_out_of_time
from ebmzoo.cli.options import (
    cell_options,
    cells_of,
    configure,
    json_option,
    open_store,
    runtime_options,
    table_options,
    tables_argument,
    warn_of_broken_plugins,
)

if TYPE_CHECKING:
    from ebmzoo.config import Configured
    from ebmzoo.store import Store
    from ebmzoo.tables import Cell


@click.command()
@tables_argument
@table_options
@cell_options
@json_option
@click.pass_context
def plan(
    context: click.Context,
    names: tuple[str, ...],
    scale: str,
    sets: tuple[str, ...],
    files: tuple[str, ...],
    root: Path,
    data: Path | None,
    debug: bool,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    seeds: int | None,
    as_json: bool,
) -> None:
    """Show what would be made, and what is kept already. Makes nothing."""
    del debug, context
    warn_of_broken_plugins()
    asked = [configure(name, scale, sets, files, data) for name in names]
    from ebmzoo.plans import Plan
    from ebmzoo.store import Store

    store = Store(root)
    plans = [Plan(each.name, each.scale, tuple(cells_of(each, rows, columns, seeds))) for each in asked]
    if as_json:
        click.echo(json.dumps(_one_or_all([each.as_json(store) for each in plans]), indent=1))
    else:
        click.echo("\n\n".join(each.text(store) for each in plans))


@click.command()
@tables_argument
@table_options
@cell_options
@runtime_options
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
    debug: bool,
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    seeds: int | None,
    device: str,
    compiled: bool,
    time_limit: float | None,
    as_json: bool,
) -> None:
    """Make every cell of tables that is not kept yet, and print them beside what was published."""
    warn_of_broken_plugins()
    asked = [configure(name, scale, sets, files, data) for name in names]
    chosen = [cells_of(each, rows, columns, seeds) for each in asked]
    store = open_store(root, device, compiled, time_limit)
    failed = late = False
    documents = []
    for configured, cells in zip(asked, chosen, strict=True):
        document, table_failed, table_late = _reproduce(configured, cells, store, debug, as_json)
        documents.append(document)
        failed, late = failed or table_failed, late or table_late
    if as_json:
        click.echo(json.dumps(_one_or_all(documents), indent=1))
    if late:
        say_out_of_time()
    context.exit(OUT_OF_TIME if late else FAILED if failed else 0)


def _reproduce(
    configured: Configured, cells: list[Cell], store: Store, debug: bool, as_json: bool
) -> tuple[dict[str, Any], bool, bool]:
    """Makes a table; returns it as JSON, and whether any cell failed and time ran out."""
    from ebmzoo import figures, rendering
    from ebmzoo.execution import everything_behind, measure
    from ebmzoo.store import write
    from ebmzoo.verdicts import Outcome

    folder = table_folder(store.root, configured)
    folder.mkdir(parents=True, exist_ok=True)
    behind = everything_behind([score for cell in cells for score in cell.scores()])
    note_references(folder / "references.json", [recipe.key for recipe in behind])
    measured = measure(cells, store, debug)
    outcome = Outcome(
        configured.name, configured.scale, configured.table, tuple(measured.results), configured.overrides
    )
    document = rendering.as_json(outcome)
    write(folder / "table.json", json.dumps(document, indent=1) + "\n")
    write(folder / "table.txt", rendering.text(outcome) + "\n")
    if not as_json:
        click.echo(rendering.text(outcome))
    if not measured.out_of_time:
        for path in figures.due(configured.table.figures, store, folder):
            click.echo(f"figure: {path}", err=as_json)
    return document, measured.failed, measured.out_of_time


def table_folder(root: Path, configured: Configured) -> Path:
    """Returns where a table's text, JSON and figures go; one folder for each set of bindings."""
    slug = configured.name.removesuffix(".gin").replace("/", "-").strip("-.")
    digest = hashlib.sha256("\n".join(configured.bindings).encode()).hexdigest()
    return root / "tables" / f"{slug}.{configured.scale}.{digest[:8]}"


def note_references(path: Path, keys: list[str]) -> None:
    """Notes which artifacts a table needs, besides those noted before, so that pruning leaves them alone."""
    from ebmzoo.store import write

    known = json.loads(path.read_text()) if path.exists() else []
    write(path, json.dumps(sorted({*known, *keys}), indent=0) + "\n")


def _one_or_all(documents: list[Any]) -> Any:
    """A single table is printed as itself, several as a list."""
    return documents[0] if len(documents) == 1 else documents
