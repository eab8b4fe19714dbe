"""``ebmzoo sample``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from ebmzoo.cli.options import (
    TableName,
    cells_of,
    configure,
    open_store,
    runtime_options,
    table_options,
    warn_of_broken_plugins,
)
from ebmzoo.cli.tables import note_references, table_folder
from ebmzoo.config import ConfigError


@click.command()
@click.argument("name", metavar="TABLE", type=TableName())
@click.option("--row", required=True, help="The row whose model is sampled.")
@click.option("--column", required=True, help="The column.")
@click.option("--count", type=click.IntRange(1), default=64, show_default=True, help="The number of samples.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which of the table's seeds.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A .png, or .npy for numbers.")
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
    debug: bool,
    device: str,
    compiled: bool,
    time_limit: float | None,
) -> None:
    """Draw samples of a row's model, which is trained first if need be."""
    del debug
    if out.suffix not in (".png", ".npy"):
        raise ConfigError(f"--out {out} should end in .png for a picture or .npy for the numbers")
    if not out.resolve().parent.is_dir():
        raise ConfigError(f"--out {out} is in a folder that does not exist; make it first")
    warn_of_broken_plugins()
    configured = configure(name, scale, sets, files, data)
    from ebmzoo.recipes import Samples

    subjects = [cell.score.subject for cell in cells_of(configured, (row,), (column,), None)]
    drawn = [subject for subject in subjects if isinstance(subject, Samples)]
    if not drawn:
        raise ConfigError(f"{row} · {column} of {name} scores a model without drawing samples")
    recipe = dataclasses.replace(drawn[0].reseeded(seed), count=count)
    store = open_store(root, device, compiled, time_limit)
    folder = table_folder(root, configured)
    folder.mkdir(parents=True, exist_ok=True)
    note_references(folder / "references.json", [recipe.key, *(need.key for need in recipe.needs())])
    _write(store.get(recipe), f"{name} · {row} · {column}", out)
    click.echo(str(out))


def _write(points: object, title: str, out: Path) -> None:
    import numpy
    import torch

    from ebmzoo import figures

    assert isinstance(points, torch.Tensor)
    if out.suffix == ".npy":
        numpy.save(out, points.cpu().numpy())
    else:
        figures.save(figures.picture(points, title), out)
