"""Dead letters, each call on a connection of its own.

```python
for letter in await admin.dead.list("orders"):
    print(letter.id, letter.error, letter.reason)
await admin.dead.redrive("orders")
```

They do what those of `Admin.dead` do, with the same arguments, and raise what `Admin`
and they raise. `url` is the server, see `Admin`.
"""

from __future__ import annotations

from penstock.admin._dead_letter import DeadLetter, Letters
from penstock.admin._dead_letter_pages import Where
from penstock.admin._dead_letters import Before, Id, Ids
from penstock.admin.client import Admin

__all__ = ["list", "purge", "read", "redrive"]


async def list(  # noqa: A001 - the operator's word
    stream: str,
    *,
    limit: int | None = 100,
    after: Id | None = None,
    where: Where | None = None,
    dead_letters: str | None = None,
    url: str | None = None,
) -> Letters:
    """List dead letters, oldest first; see `DeadLetterOffice.list`."""
    async with Admin(url) as admin:
        return await admin.dead.list(
            stream, limit=limit, after=after, where=where, dead_letters=dead_letters
        )


async def read(
    stream: str,
    id: Id,  # noqa: A002
    *,
    dead_letters: str | None = None,
    url: str | None = None,
) -> DeadLetter | None:
    """Read one dead letter; see `DeadLetterOffice.read`."""
    async with Admin(url) as admin:
        return await admin.dead.read(stream, id, dead_letters=dead_letters)


async def redrive(
    stream: str,
    *,
    ids: Ids | None = None,
    where: Where | None = None,
    limit: int | None = None,
    to: str | None = None,
    dead_letters: str | None = None,
    url: str | None = None,
) -> int:
    """Send dead letters back, by default all; see `DeadLetterOffice.redrive`."""
    async with Admin(url) as admin:
        return await admin.dead.redrive(
            stream,
            ids=ids,
            where=where,
            limit=limit,
            to=to,
            dead_letters=dead_letters,
        )


async def purge(
    stream: str,
    *,
    ids: Ids | None = None,
    where: Where | None = None,
    before: Before | None = None,
    all: bool = False,  # noqa: A002 - what it is
    limit: int | None = None,
    dead_letters: str | None = None,
    url: str | None = None,
) -> int:
    """Delete dead letters for good; see `DeadLetterOffice.purge`."""
    async with Admin(url) as admin:
        return await admin.dead.purge(
            stream,
            ids=ids,
            where=where,
            before=before,
            all=all,
            limit=limit,
            dead_letters=dead_letters,
        )
