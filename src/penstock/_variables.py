"""Environment variables whose values may be in files, as secrets are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from penstock.errors import ConfigurationError

__all__ = ["content", "variable"]


def variable(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of a variable, or the content of the file that its twin names.

    The twin is the same name with `_FILE` behind it. White space at both ends is
    removed: files with secrets often end in a newline.

    Args:
        name: The variable.
        environ: All variables; default: those of this process.

    Returns:
        The value; None if both are unset or empty.

    Raises:
        ConfigurationError: Both are set, or the file can't be read or is empty.
    """
    variables = os.environ if environ is None else environ
    value = variables.get(name, "").strip()
    file = variables.get(f"{name}_FILE", "")
    if not file:
        return value or None
    if value:
        raise ConfigurationError(
            f"both {name} and {name}_FILE are set; leave one of them out"
        )
    return content(file, f"{name}_FILE")


def content(file: str, name: str) -> str:
    """Return the content of a file that a variable names, without white space around.

    Raises:
        ConfigurationError: It can't be read, or is empty.
    """
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigurationError(
            f"the file {file!a:.120} that {name} names can't be read: {reason}"
        ) from None
    if not found:
        raise ConfigurationError(
            f"the file {file!a:.120} that {name} names is empty; write the value into "
            f"it"
        )
    return found
