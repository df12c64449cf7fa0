"""Entry point of `penstock` and `python -m penstock.cli`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_EXTRA = ("typer", "rich", "h11")


def main() -> None:
    """Run the command line; without its extra, print how to install it."""
    for package in _EXTRA:
        if find_spec(package) is None:
            sys.exit(_missing(package))
    # Imported here, so that a missing package is reported in a sentence, without a
    # traceback.
    from penstock.cli.app import app  # noqa: PLC0415

    app(prog_name="penstock")


def _missing(package: str) -> int:
    print(
        f"penstock: the command line needs {package}, which is not installed; "
        f"install it with: pip install 'penstock[cli]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
