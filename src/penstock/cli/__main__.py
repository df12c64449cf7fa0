"""The entry point: `penstock`, or `python -m penstock.cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"typer", "rich"}


def main() -> None:
    """Run the command line; without its extra, say how to get it."""
    try:
        # Here and not above: what is missing shall be a sentence, no traceback.
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
        f"get it with: pip install 'penstock[cli]'",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
