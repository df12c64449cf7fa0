"""Error texts that several commands share, and checks that raise them."""

from __future__ import annotations

from typing import Final

from simulation.server.resp import Refusal

__all__ = [
    "BAD_ID",
    "NOT_INTEGER",
    "NO_SUCH_KEY",
    "SYNTAX",
    "WRONG_TYPE",
    "arity",
    "integer",
    "unknown_subcommand",
]

SYNTAX: Final = b"ERR syntax error"
NOT_INTEGER: Final = b"ERR value is not an integer or out of range"
WRONG_TYPE: Final = b"WRONGTYPE Operation against a key holding the wrong kind of value"
BAD_ID: Final = b"ERR Invalid stream ID specified as stream command argument"
NO_SUCH_KEY: Final = b"ERR no such key"

_LOWEST: Final = -(2**63)
_HIGHEST: Final = 2**63 - 1


def arity(name: str) -> Refusal:
    """Return the error for a wrong number of arguments."""
    return Refusal(b"ERR wrong number of arguments for '%b' command" % name.encode())


def unknown_subcommand(container: str, word: bytes, *, own: bool) -> Refusal:
    """Return the error for a subcommand that is not known.

    Args:
        container: The command.
        word: The subcommand.
        own: Whether subcommands are commands of their own on this server.
    """
    text = b"unknown subcommand '%b'. Try %b HELP."
    if not own:
        text = b"Unknown subcommand or wrong number of arguments for '%b'. Try %b HELP."
    return Refusal(b"ERR " + text % (word, container.upper().encode()))


def integer(word: bytes, error: bytes = NOT_INTEGER) -> int:
    """Return a word's integer.

    Raises:
        Refusal: It is none, or does not fit in 64 bits.
    """
    digits = word[1:] if word[:1] == b"-" else word
    if not digits.isdigit() or (len(digits) > 1 and digits[:1] == b"0"):
        raise Refusal(error)
    value = int(word)
    if not _LOWEST <= value <= _HIGHEST or word == b"-0":
        raise Refusal(error)
    return value
