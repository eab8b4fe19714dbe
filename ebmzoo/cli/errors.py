"""How a command ends: one paragraph and an exit code, and a traceback for who asks for it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from ebmzoo.config import ConfigError
from ebmzoo.runtime import Deadline, OutOfTime, UnknownDevice, worded

FAILED, WRONG, OUT_OF_TIME = 1, 2, 75

DEBUG = "ebmzoo.debug"
"""The key of a context's ``meta`` that says whether errors come with their traceback."""


class WrongRequest(click.ClickException):
    """A request that the command line itself cannot read."""

    exit_code = WRONG

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the paragraph to stderr."""
        del file
        complain(self.message)


class Group(click.Group):
    """A group of commands whose errors are paragraphs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the words before the command's name."""
        with _one_paragraph():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            with _one_paragraph():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (OutOfTime, KeyboardInterrupt):  # an interrupt before there was a store that could hear it
            say_out_of_time()
            ctx.exit(OUT_OF_TIME)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(FAILED)
        except Exception as error:
            if debugging():
                raise
            complain(paragraph(error))
            ctx.exit(WRONG if isinstance(error, ConfigError | UnknownDevice) else FAILED)


@contextmanager
def _one_paragraph() -> Iterator[None]:
    """Tells what click finds wrong in one paragraph, without the lines on usage that it puts above."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        words = " ".join(error.format_message().split()).rstrip(".")
        command = error.ctx.command_path if error.ctx else "ebmzoo"
        raise WrongRequest(f"{words}; `{command} --help` says what there is") from None


def paragraph(error: Exception) -> str:
    """Returns an error in one paragraph."""
    expected = isinstance(error, OSError) or type(error).__module__.startswith("ebmzoo")
    return worded(error) + ("" if expected else " (say it again with --debug for the traceback)")


def debugging() -> bool:
    """Whether errors come with their traceback."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(DEBUG, False)


def complain(message: str) -> None:
    """Prints an error to stderr."""
    click.secho(f"error: {message}", fg="red", err=True)


def warn(message: str) -> None:
    """Prints a warning to stderr."""
    click.secho(f"warning: {message}", fg="yellow", err=True)


def say_out_of_time() -> None:
    """Says that work is left."""
    click.echo("stopped in time, with work left; say the same command again to go on", err=True)


def stop_on_signals(deadline: Deadline) -> Callable[[], None]:
    """Lets the first interrupt or termination stop work cleanly; a second one ends the process at once.

    Returns:
        What puts back what the signals did before.
    """

    def stop(number: int, frame: object) -> None:
        del frame
        deadline.ask_to_stop()
        signal.signal(number, signal.SIG_DFL)
        click.echo("stopping at the next safe point; once more to stop now", err=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return put_back
