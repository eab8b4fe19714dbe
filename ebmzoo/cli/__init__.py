"""The command line. Thin: it turns words into values, calls what is below, and prints."""

from __future__ import annotations

import click

from ebmzoo import __version__
from ebmzoo.cli import data, doctor, listing, samples, shelf, tables
from ebmzoo.cli.errors import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ebmzoo")
def main() -> None:
    """Reproduce and compare energy-based models.

    `ebmzoo list` shows the tables; `ebmzoo reproduce TABLE` makes one. What is made is kept in a store and
    never made twice; a killed command goes on when it is said again.

    Exit codes: 0 all made; 1 something failed; 2 the request is wrong; 75 stopped in time with work left.
    """


for command in (
    listing.list_,
    listing.describe,
    tables.plan,
    tables.reproduce,
    samples.sample,
    data.data,
    shelf.store,
    doctor.doctor,
):
    main.add_command(command)
