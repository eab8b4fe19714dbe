"""``ebmzoo data``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ebmzoo.cli.errors import FAILED, complain, debugging, paragraph
from ebmzoo.cli.options import Folder, debug_option, json_option, warn_of_broken_plugins
from ebmzoo.config import ConfigError, classes, nearest

if TYPE_CHECKING:
    from ebmzoo.data.files import FromFiles

data_option = click.option(
    "--data", "folder", type=Folder(), envvar="EBMZOO_DATA", metavar="DIR",
    help="Where the files are (EBMZOO_DATA).",
)  # fmt: skip
names_argument = click.argument("names", metavar="[NAME]...", nargs=-1)


@click.group()
def data() -> None:
    """List, fetch or verify the data sets that are read from files.

    Toy sets and digits are built in and need none.
    """


@data.command("list")
@names_argument
@data_option
@json_option
@debug_option
def list_(names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """List data sets and say which of their files are here."""
    rows = [_row(each, folder, look=False) for each in _sets(names)]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        click.echo(f"{row['name']:14}  {row['state']:10}  {row['about']}")
    if folder is None:
        click.echo("EBMZOO_DATA is not set, so none was looked for; --data names a folder", err=True)


@data.command()
@names_argument
@data_option
@json_option
@debug_option
@click.pass_context
def verify(context: click.Context, names: tuple[str, ...], folder: Path | None, as_json: bool) -> None:
    """Compare files with their checksums.

    Without a NAME, those of every set that has files here. Exits with 1 if a file is damaged, or if a set
    that was named lacks one.
    """
    root = _needed(folder)
    rows = [_row(each, root, look=True) for each in _sets(names)]
    rows = [row for row in rows if names or row["state"] != "absent"]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        for row in rows:
            for file, state in row["files"].items():
                click.echo(f"{state:10}  {root / file}")
        if not rows:
            click.echo(f"{root} has files of no data set that ebmzoo knows", err=True)
    wrong = [row for row in rows if row["state"] in ("damaged", "absent", "in part")]
    if wrong:
        from ebmzoo.data.files import fetching

        click.echo(f"to mend that: {fetching([row['name'] for row in wrong], root)}", err=True)
    context.exit(FAILED if wrong else 0)


@data.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@data_option
@debug_option
@click.pass_context
def fetch(context: click.Context, names: tuple[str, ...], folder: Path | None) -> None:
    """Download the files of data sets from their archives.

    Whole files are left as they are, and damaged ones replaced.
    """
    root, failed = _needed(folder), False
    for each in _sets(names):
        try:
            each.fetch(root)
        except Exception as error:  # whatever a library's download may raise
            if debugging():
                raise
            remedy = f"Without a connection, put its files there by hand: {', '.join(each.files)} in {root}"
            complain(f"{type(each).__name__} was not fetched: {paragraph(error).rstrip('.')}. {remedy}")
            failed = True
            continue
        click.echo(f"{type(each).__name__}: {_row(each, root, look=True)['state']} in {root}")
    context.exit(FAILED if failed else 0)


def _sets(names: tuple[str, ...]) -> list[FromFiles]:
    """Returns the sets of these names, or all that are read from files."""
    from ebmzoo.data.files import FromFiles

    known = {n: c for n, c in sorted(classes().get("data", {}).items()) if issubclass(c, FromFiles)}
    warn_of_broken_plugins()
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; there are {', '.join(known)}"
            raise ConfigError(f"no data set that is read from files is called {name}{hint}")
    return [known[name]() for name in names or known]


def _row(data: FromFiles, folder: Path | None, look: bool) -> dict[str, Any]:
    """Returns what there is to say of a set; checksums are computed only if asked to look."""
    from ebmzoo.cli.listing import summary

    states = {} if folder is None else data.states(folder) if look else _present(data, folder)
    return {
        "name": type(data).__name__,
        "state": _overall(list(states.values())) if states else "unknown",
        "about": summary(type(data)),
        "files": states,
    }


def _present(data: FromFiles, folder: Path) -> dict[str, str]:
    return {name: "here" if (folder / name).is_file() else "absent" for name in data.files}


def _overall(states: list[str]) -> str:
    """Returns the state of a set from those of its files."""
    if "damaged" in states:
        return "damaged"
    if "absent" in states:
        return "absent" if set(states) == {"absent"} else "in part"
    return "unchecked" if "unchecked" in states else states[0]


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError("no folder of data is named; give --data DIR or set EBMZOO_DATA")
    if folder.exists() and not os.access(folder, os.R_OK):
        raise ConfigError(f"{folder} cannot be read")
    return folder
