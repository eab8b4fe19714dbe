"""``python -m ebmzoo`` is ``ebmzoo``."""

from ebmzoo.cli import main

if __name__ == "__main__":  # processes that this one starts import it under another name
    main(prog_name="ebmzoo")
