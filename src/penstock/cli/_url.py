"""Which server a command talks to: by its option, or by the environment."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from penstock import ConfigurationError
from penstock._variables import variable

__all__ = ["NAMES", "OWN", "SHARED", "named_server", "server_url"]

OWN: Final = "PENSTOCK_URL"
SHARED: Final = "REDIS_URL"
NAMES: Final = (OWN, SHARED)
"""The variables that may name the server; each has a twin that ends in `_FILE`."""


def named_server(url: str | None) -> str:
    """Return the URL that an option or the environment names.

    Raises:
        ConfigurationError: There is none, or it can't be read.
    """
    found = server_url(url)
    if found is None:
        raise ConfigurationError(
            "no server is named: pass --url redis://host:6379, or set PENSTOCK_URL, "
            "REDIS_URL, or one of these with _FILE"
        )
    return found


def server_url(url: str | None, names: Collection[str] = NAMES) -> str | None:
    """Return the URL that an option or else the environment names.

    Args:
        url: The option.
        names: The variables that may have it, or with `_FILE` the path of a file that
            has it; the first one that is set counts.

    Raises:
        ConfigurationError: A variable and its twin contradict each other, or the file
            can't be read.
    """
    if url is not None and url.strip():
        return url.strip()
    for name in names:
        if found := variable(name):
            return found
    return None
