"""The fields of an entry as users see them: a message's headers, or all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Fields", "Headers"]


class Headers(Mapping[str, str]):
    """A message's headers: the entry's fields besides payload and key.

    Names and values are text. Bytes that are not UTF-8 are decoded with Python's
    `surrogateescape`, so they can be recovered; such text can't be sent. If several
    fields have the same name, the first one counts; `pairs` has them all.
    """

    __slots__ = ("_first", "pairs")

    def __init__(self, pairs: Sequence[tuple[str, str]] = ()) -> None:
        self.pairs = tuple(pairs)
        self._first = dict(reversed(self.pairs))

    def __getitem__(self, name: str) -> str:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        # Values may be confidential: show names only.
        return f"Headers({', '.join(ascii(name)[:40] for name in self)})"


class Fields(tuple[tuple[bytes, bytes], ...]):
    """A whole entry as it is stored in the stream: its field pairs, in their order.

    Requested with `payload=Fields`, for entries that other programs wrote.

    Example:
        >>> Fields([(b"temp", b"21"), (b"temp", b"22")]).get(b"temp")
        b'21'
    """

    __slots__ = ()

    def get(self, name: bytes) -> bytes | None:
        """Return the first value with that name, or None."""
        return next((value for field, value in self if field == name), None)

    def __repr__(self) -> str:
        return f"Fields({len(self)} pairs)"
