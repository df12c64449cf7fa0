"""Input of `penstock demo`: lines from a file, or a made-up click stream."""

from __future__ import annotations

import asyncio
import os
import random
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

__all__ = ["Lines", "clicks", "first_word", "from_file"]

_CHUNK: Final = 256 * 1024
_USERS: Final = 500
_PATHS: Final = (b"/", b"/search", b"/item", b"/cart", b"/checkout", b"/login")
_STATUSES: Final = (b"200",) * 17 + (b"302", b"404", b"500")


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines to send.

    Attributes:
        source: The lines, without their newline.
        total: How many there are; None where only the end will tell.
    """

    source: AsyncIterator[bytes]
    total: int | None


def first_word(line: bytes) -> str:
    """Return a line's key; without any word it is empty.

    Bytes that are no UTF-8 become lone surrogates, which a producer encodes as those
    bytes again.
    """
    words = line.split(None, 1)
    return words[0].decode("utf-8", "surrogateescape") if words else ""


def clicks(count: int, seed: int) -> Lines:
    """Make up clicks like `user-17 /cart 200`, the same ones for the same seed.

    Some users click a lot more than others, as keys do in real life.
    """

    async def source() -> AsyncIterator[bytes]:
        chance = random.Random(seed)  # noqa: S311 - nobody is to be kept from guessing
        for _ in range(count):
            user = int(_USERS * chance.random() ** 3) + 1
            path, status = chance.choice(_PATHS), chance.choice(_STATUSES)
            yield b"user-%d %b %b" % (user, path, status)

    return Lines(source(), count)


@asynccontextmanager
async def from_file(descriptor: int, *, counted: bool) -> AsyncIterator[Lines]:
    """Read lines from an open file, a pipe or a terminal as they come.

    A newline ends a line, whatever its bytes, and however many; bytes after the last
    newline are a line too.

    Args:
        descriptor: The file's; not closed here.
        counted: Whether the total must be known. That takes another reading, and of a
            pipe or a terminal, which can't be read twice, a copy on disk.

    Raises:
        OSError: It can't be read.
    """
    if not counted:
        yield Lines(_lines(descriptor), None)
        return
    with tempfile.TemporaryFile(prefix="penstock-demo-") as copy:
        twice = stat.S_ISREG(os.fstat(descriptor).st_mode)
        start = os.lseek(descriptor, 0, os.SEEK_CUR) if twice else 0
        total, last = 0, b"\n"
        async for chunk in _chunks(descriptor):
            total += chunk.count(b"\n")
            last = chunk[-1:]
            if not twice:
                copy.write(chunk)
        copy.flush()
        again = descriptor if twice else copy.fileno()
        os.lseek(again, start, os.SEEK_SET)
        yield Lines(_lines(again), total + (last != b"\n"))


async def _lines(descriptor: int) -> AsyncIterator[bytes]:
    # Pieces of a line whose end is still to come: joined once, for it may be long.
    pieces: list[bytes] = []
    async for chunk in _chunks(descriptor):
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((*pieces, end))
            pieces.clear()
        pieces.append(rest)
    if line := b"".join(pieces):
        yield line


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    # No thread: one that waits for a terminal's next line could not be ended.
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        try:
            loop.add_reader(descriptor, ready.set)
        except PermissionError:
            # A file on disk, or /dev/null: there is never anything to wait for. But
            # others get a turn, since nothing else here may ever wait.
            await asyncio.sleep(0)
        else:
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return
        yield chunk
