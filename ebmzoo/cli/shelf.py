"""``ebmzoo store``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ebmzoo.cli.errors import FAILED, complain
from ebmzoo.cli.options import check_folder, debug_option, json_option, store_option
from ebmzoo.config import ConfigError

if TYPE_CHECKING:
    from ebmzoo.store import Kept, Store


@click.group()
def store() -> None:
    """List, verify, prune, export or import what is kept."""


@store.command("list")
@store_option
@json_option
@debug_option
def list_(root: Path, as_json: bool) -> None:
    """List every artifact with its state, size and age."""
    contents = _existing(root).contents()
    if as_json:
        click.echo(json.dumps([_document(kept) for kept in contents], indent=1))
        return
    for kept in contents:
        size, when = _size(kept.bytes), kept.run.get("finished", "")
        seconds = f"{kept.run['seconds']:.0f} s" if "seconds" in kept.run else ""
        click.echo(
            f"{kept.folder.name:26}  {kept.state:8}{size:>10}  {seconds:>8}  {when}  {kept.reason}".rstrip()
        )
    total = sum(kept.bytes for kept in contents)
    click.echo(f"{len(contents)} artifacts, {_size(total)}, in {root}", err=True)


@store.command()
@store_option
@json_option
@debug_option
@click.pass_context
def verify(context: click.Context, root: Path, as_json: bool) -> None:
    """Compare every artifact with its checksum.

    Exits with 1 if any is damaged.
    """
    contents = _existing(root).contents()
    damaged = [kept for kept in contents if kept.state == "damaged"]
    if as_json:
        click.echo(json.dumps([_document(kept) for kept in contents], indent=1))
    else:
        for kept in damaged:
            click.echo(f"{kept.folder.name}: {kept.reason}")
        whole = sum(kept.state == "whole" for kept in contents)
        begun = sum(kept.state == "begun" for kept in contents)
        click.echo(f"{whole} whole, {begun} begun, {len(damaged)} damaged")
    context.exit(FAILED if damaged else 0)


@store.command()
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@debug_option
@click.pass_context
def prune(context: click.Context, root: Path, yes: bool, dry_run: bool) -> None:
    """Remove what is damaged or needed by no table.

    The tables are those that were ever asked for in this store, at any scale. Asks before it removes
    anything. Exits with 1 if something could not be removed, because another process is at work in it.
    """
    from ebmzoo.store import StoreError, referenced

    shelf = _existing(root)
    contents = shelf.contents()
    doomed = _prunable(contents, referenced(root))
    for kept, why in doomed:
        click.echo(f"{kept.folder.name}: {why} ({_size(kept.bytes)})")
    if not doomed:
        click.echo("nothing to remove: everything is whole, or being made, and needed by a table")
    if dry_run:
        return
    for kept in contents:
        if kept.state == "whole":
            shelf.tidy(kept.folder)  # of what a process left that was killed just after it was done
    if not doomed:
        return
    if not yes:
        click.confirm(f"remove these folders ({len(doomed)})?", abort=True)
    removed, failed = 0, False
    for kept, _ in doomed:
        if kept.state != "damaged" and kept.recipe.get("key") in referenced(root):
            click.echo(f"{kept.folder.name}: left, since a table has come to need it")
            continue
        try:
            shelf.remove(kept)
            removed += 1
        except StoreError as error:
            complain(str(error))
            failed = True
    click.echo(f"removed folders: {removed}")
    context.exit(FAILED if failed else 0)


@store.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("patterns", metavar="[ARTIFACT]...", nargs=-1)
@store_option
@debug_option
def export_(root: Path, file: Path, patterns: tuple[str, ...]) -> None:
    """Write artifacts into a zip file, for `store import` elsewhere.

    All that are whole, or those whose names match a pattern, such as 'score-*'. Scores alone are small,
    and enough to print a table again. Logs are left out.
    """
    from ebmzoo.store import export, store_command

    check_folder(file, "FILE")
    chosen = [
        kept
        for kept in _existing(root).contents()
        if kept.state != "begun" and any(fnmatchcase(kept.folder.name, each) for each in patterns or ("*",))
    ]
    damaged = [kept.folder.name for kept in chosen if kept.state == "damaged"]
    if damaged:
        raise ConfigError(
            f"damaged: {', '.join(damaged)}; nothing was written. `{store_command(root, 'verify')}` says "
            f"what it is, and `{store_command(root, 'prune')}` removes it"
        )
    if not chosen:
        raise ConfigError(
            f"no whole artifact in {root} is named like that; `{store_command(root, 'list')}` says what "
            "there is"
        )
    export(chosen, file)
    click.echo(f"{len(chosen)} artifacts, {_size(file.stat().st_size)}, in {file}")


@store.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@store_option
@debug_option
def import_(root: Path, file: Path) -> None:
    """Put the artifacts of an exported file into the store.

    Each is compared with its checksum first. What the store has already stays as it is.
    """
    from ebmzoo.store import Store, bring

    arrivals = bring(file, Store(root))
    click.echo(f"{len(arrivals.new)} artifacts are new in {root}, {len(arrivals.known)} were there")


def _prunable(contents: Iterable[Kept], needed: Collection[str]) -> list[tuple[Kept, str]]:
    """Returns what may go, and why."""
    doomed = []
    for kept in contents:
        if kept.state == "damaged":
            doomed.append((kept, f"damaged: {kept.reason}"))
        elif kept.recipe.get("key") not in needed:
            doomed.append((kept, "needed by no table"))
    return doomed


def _existing(root: Path) -> Store:
    if not root.is_dir():
        raise ConfigError(f"there is no store at {root}; name one with --store or EBMZOO_STORE")
    from ebmzoo.store import Store

    return Store(root)


def _size(count: int) -> str:
    """Returns a number of bytes in kB or MB."""
    return f"{count / 1e3:.1f} kB" if count < 1e5 else f"{count / 1e6:.1f} MB"


def _document(kept: Kept) -> dict[str, object]:
    return {
        "artifact": kept.folder.name,
        "kind": kept.recipe.get("kind"),
        "key": kept.recipe.get("key"),
        "state": kept.state,
        "reason": kept.reason,
        "bytes": kept.bytes,
        "seconds": kept.run.get("seconds"),
        "finished": kept.run.get("finished"),
    }
