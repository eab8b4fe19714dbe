"""``python -m ebmzoo`` is ``ebmzoo``."""

from ebmzoo.cli import main

main(prog_name="ebmzoo")
