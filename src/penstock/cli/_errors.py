"""What goes wrong outside of us, as a sentence and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from penstock import PenstockError, UsageError

__all__ = ["plain_errors"]


@contextmanager
def plain_errors(*also: type[Exception]) -> Iterator[None]:
    """Say in a sentence what went wrong.

    Args:
        *also: More exceptions whose text is one.

    Raises:
        Exit: With status 2 where the call can't work as it stands, else with 1.
    """
    plain: tuple[type[Exception], ...] = (PenstockError, OSError, *also)
    try:
        yield
    except BrokenPipeError:
        # Whoever read our output has seen enough, as in `| head`; click knows.
        raise
    except plain as error:
        print(f"penstock: {error}", file=sys.stderr)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
