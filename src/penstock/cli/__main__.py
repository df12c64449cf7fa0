"""Entry point of `penstock` and `python -m penstock.cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"typer", "rich"}


def main() -> None:
    """Run the command line; without its extra, print how to install it."""
    try:
        # Imported here, so that a missing package is reported in a sentence, without a
        # traceback.
        from penstock.cli.app import app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(_missing(missing))
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
