"""How a command ends: one paragraph and an exit code, and a traceback for who asks for it."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from ebmzoo.config import ConfigError
from ebmzoo.runtime import Deadline, OutOfTime

FAILED, WRONG, OUT_OF_TIME = 1, 2, 75


class Group(click.Group):
    """A group of commands whose errors are paragraphs."""

    def invoke(self, context: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OutOfTime:
            say_out_of_time()
            context.exit(OUT_OF_TIME)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(FAILED)
        except Exception as error:
            if "--debug" in sys.argv:
                raise
            complain(_paragraph(error))
            context.exit(WRONG if _is_wrong(error) else FAILED)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Returns a command, or fails with the nearest name."""
        command = super().get_command(context, name)
        if command is None:
            from ebmzoo.config import nearest

            raise click.UsageError(f"there is no command {name!r}{nearest(name, self.list_commands(context))}")
        return command


def _is_wrong(error: Exception) -> bool:
    from ebmzoo.execution import UnknownDevice

    return isinstance(error, ConfigError | UnknownDevice)


def _paragraph(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno:
        where = f": {error.filename}" if error.filename else ""
        return f"{os.strerror(error.errno)}{where}. What was made is kept; mend the cause and say the command again."
    kind = type(error)
    ours = kind.__module__.startswith("ebmzoo")
    words = " ".join(str(error).split())
    return words if ours else f"{kind.__name__}: {words} (say it again with --debug for the traceback)"


def complain(message: str) -> None:
    """Prints an error to stderr."""
    click.secho(f"error: {message}", fg="red", err=True)


def warn(message: str) -> None:
    """Prints a warning to stderr."""
    click.secho(f"warning: {message}", fg="yellow", err=True)


def say_out_of_time() -> None:
    """Says that work is left."""
    click.echo("stopped in time, with work left; say the same command again to go on", err=True)


def stop_on_signals(deadline: Deadline) -> None:
    """Lets the first interrupt or termination stop work cleanly; a second one ends the process at once."""

    def stop(number: int, frame: object) -> None:
        del frame
        deadline.ask_to_stop()
        signal.signal(number, signal.SIG_DFL)
        click.echo("stopping at the next safe point; once more to stop now", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
