"""Errors as a sentence and an exit status, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import typer

from penstock import PenstockError, UsageError

__all__ = ["INTERRUPTED", "plain_errors"]

INTERRUPTED: Final = 130
"""The status of a command that Ctrl-C has ended: 128 and the number of SIGINT."""


@contextmanager
def plain_errors(*also: type[Exception]) -> Iterator[None]:
    """Print an error as a sentence, and exit.

    Args:
        *also: Further exceptions whose text is a sentence for the user.

    Raises:
        Exit: With status 2 for wrong usage, which fails again unless it is changed,
            with 130 after Ctrl-C, else with status 1.
    """
    plain: tuple[type[Exception], ...] = (PenstockError, OSError, *also)
    try:
        yield
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as in `| head`; click handles
        # that.
        raise
    except plain as error:
        print(f"penstock: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
