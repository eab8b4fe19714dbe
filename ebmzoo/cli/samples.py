"""``ebmzoo sample``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebmzoo.cli.options import (
    TableName,
    check_folder,
    configure,
    open_store,
    runtime_options,
    table_options,
    writable,
)
from ebmzoo.cli.tables import table_folder
from ebmzoo.config import ConfigError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from ebmzoo.config import Configured
    from ebmzoo.recipes import Samples


@click.command()
@click.argument("name", metavar="TABLE", type=TableName())
@click.option("--row", required=True, metavar="NAME", help="The row whose model is sampled.")
@click.option("--column", required=True, metavar="NAME", help="The column.")
@click.option(
    "--count", type=click.IntRange(1), default=64, show_default=True, metavar="N", help="How many samples."
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N",
    help="Which of the table's seeds, from 0.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False, writable=True), required=True, metavar="FILE",
    help="A .png for a picture, or a .npy for numbers.",
)  # fmt: skip
@table_options
@runtime_options
def sample(
    name: str,
    row: str,
    column: str,
    count: int,
    seed: int,
    out: Path,
    scale: str,
    sets: tuple[str, ...],
    files: tuple[str, ...],
    root: Path,
    data: Path | None,
    weights: Path | None,
    device: str,
    compiled: bool,
    time_limit: float | None,
) -> None:
    """Draw samples of a row's model.

    The model is trained first if need be, and the samples are kept like any others.
    """
    _check_out(out)
    [configured] = configure([name], scale, sets, files, data, weights)
    from ebmzoo import figures
    from ebmzoo.store import everything_behind, note_references

    recipe = _recipe(configured, row, column, seed, count)
    if out.suffix == ".png" and not figures.drawable(recipe.data.shape):
        shape = recipe.data.shape
        raise ConfigError(f"--out {out}: data of shape {shape} have no picture; name a .npy for the numbers")
    store = open_store(root, device, compiled, time_limit)
    if writable(root):
        note_references(table_folder(root, configured), [each.key for each in everything_behind([recipe])])
    _write(store.get(recipe), f"{name} · {row} · {column}", out)
    click.echo(str(out))


def _check_out(out: Path) -> None:
    if out.suffix not in (".png", ".npy"):
        raise ConfigError(f"--out {out} should end in .png for a picture or .npy for the numbers")
    check_folder(out, "--out")


def _recipe(configured: Configured, row: str, column: str, seed: int, count: int) -> Samples:
    """Returns the samples of one row and column, of another number and seed."""
    from ebmzoo.recipes import Samples

    cells = list(configured.table.flat())
    asked = (row.casefold(), column.casefold())
    found = [cell for cell in cells if (cell.row.casefold(), cell.column.casefold()) == asked]
    if not found:
        there = list(dict.fromkeys(f"{cell.row} · {cell.column}" for cell in cells))
        hint = nearest(f"{row} · {column}", there) or f"; there are {', '.join(there)}"
        raise ConfigError(f"{configured.name} has no row {row!r} with a column {column!r}{hint}")
    drawn = [(c.score.subject, c.seeds) for c in found if isinstance(c.score.subject, Samples)]
    if not drawn:
        raise ConfigError(f"{row} · {column} of {configured.name} scores a model without drawing samples")
    subject, seeds = drawn[0][0], max(count for _, count in drawn)
    if seed >= seeds:
        raise ConfigError(f"--seed {seed} is none of the table's, which are 0 to {seeds - 1}")
    return dataclasses.replace(subject.reseeded(seed), count=count)


def _write(points: Tensor, title: str, out: Path) -> None:
    import numpy

    from ebmzoo import figures

    if out.suffix == ".npy":
        numpy.save(out, points.cpu().numpy())
    else:
        figures.save(figures.picture(points, title), out)
