"""Tokens: what a member shows with every write to a shard that it owns.

A token is `number:member:nonce`, and is only ever compared for equality. The number
grows with each ownership of a shard. It alone would not do: a server that fell back to
an older copy of its data gives the same number to a second owner. So the nonce has the
run of the owner's process, which is random, and counts the ownerships in that run.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Token", "consumer_name", "is_ownership"]

_OWNERSHIP: Final = re.compile(rb"#[0-9]+(\.[0-9]+)?\Z")


class Token(NamedTuple):
    """A token.

    Attributes:
        number: The number of the ownership, from 1.
        member: The owner's name.
        run: The run of the owner's process: random, and without colons and dots.
        serial: The number of the ownership within the run.
    """

    number: int
    member: str
    run: str
    serial: int

    def encode(self) -> bytes:
        """Return the token as the server keeps it."""
        return f"{self.number}:{self.member}:{self.run}.{self.serial}".encode()

    def is_namesake_after(self, other: Token) -> bool:
        """Return whether a process of the same name took the shard after another one.

        A server that fell back to older data may have the token of this member's last
        process once more. Its number is lower.
        """
        namesake = self.member == other.member and self.run != other.run
        return namesake and self.number > other.number

    @classmethod
    def parse(cls, raw: bytes) -> Token | None:
        """Read a token; None if it is none, which is how a free shard's looks."""
        number, _, rest = raw.partition(b":")
        member, _, nonce = rest.rpartition(b":")
        run, _, serial = nonce.rpartition(b".")
        if not (number.isdigit() and serial.isdigit() and run):
            return None
        try:
            return cls(int(number), member.decode(), run.decode(), int(serial))
        except UnicodeDecodeError:
            return None


def consumer_name(token: Token, reader: int = 0) -> str:
    """Return the name under which an owner reads: `member#number`.

    One name per ownership: a late read of a former ownership of the same member would
    otherwise be pending under its present name, where nobody looks for strays. A read
    or a claim whose reply was lost may be executed late as well, within the same
    ownership. So the name changes with each of them.

    Args:
        token: The token of the ownership.
        reader: The number of reads and claims of this ownership that were lost.
    """
    name = f"{token.member}#{token.number}"
    return f"{name}.{reader}" if reader else name


def is_ownership(consumer: bytes) -> bool:
    """Return whether a consumer's name is that of an ownership."""
    return _OWNERSHIP.search(consumer) is not None
