"""Stream names to keys."""

from __future__ import annotations

from penstock.errors import ConfigurationError
from penstock.message import Shard

__all__ = ["single"]


def single(stream: str) -> Shard:
    """Give the one shard of a stream that is one key.

    Raises:
        ConfigurationError: The name is empty, or no text.
    """
    if not isinstance(stream, str) or not stream:
        raise ConfigurationError(
            f"{stream!r:.60} is no stream name; give a text that is not empty"
        )
    try:
        return Shard(stream, 0, stream.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(
            f"stream name {stream!r:.60} has a lone surrogate in it; remove it"
        ) from None
