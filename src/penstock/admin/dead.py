"""Functions for dead letters, each call on a connection of its own.

```python
for letter in await admin.dead.list("orders"):
    print(letter.id, letter.error, letter.reason)
await admin.dead.redrive("orders")
```

They do the same as the methods of `Admin.dead`, with the same arguments, and raise the
same exceptions as these and `Admin`. `url` and `credentials` are the server and the
login, see `Admin`.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock._core.messages.envelope import FIELD
from penstock.admin._dead_letter import (
    DeadLetter,
    DeadLetterCount,
    DeadLetterList,
)
from penstock.admin._selection import Before, Id, Ids, Selection, Where
from penstock.admin.client import Admin
from penstock.credentials import Credentials

__all__ = ["list", "purge", "read", "redrive", "summary"]


async def list(  # noqa: A001 - the operator's word
    stream: str,
    *,
    limit: int | None = 100,
    after: Id | None = None,
    where: Where | None = None,
    dead_letters: str | None = None,
    field: str = FIELD,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> DeadLetterList:
    """Return dead letters, oldest first; see `DeadLetterAdmin.list`."""
    selection = Selection.of(
        "list",
        stream,
        dead_letters,
        where=where,
        after=after,
        limit=limit,
        field=field,
    )
    async with Admin(url, credentials=credentials) as admin:
        return await admin.dead.select(selection).list()


async def read(
    stream: str,
    id: Id,  # noqa: A002
    *,
    dead_letters: str | None = None,
    field: str = FIELD,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> DeadLetter | None:
    """Return one dead letter; see `DeadLetterAdmin.read`."""
    async with Admin(url, credentials=credentials) as admin:
        return await admin.dead.read(stream, id, dead_letters=dead_letters, field=field)


async def redrive(
    stream: str,
    *,
    ids: Ids | None = None,
    where: Where | None = None,
    limit: int | None = None,
    to: str | None = None,
    dead_letters: str | None = None,
    field: str = FIELD,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> int:
    """Send dead letters back, by default all; see `DeadLetterAdmin.redrive`."""
    selection = Selection.of(
        "redrive",
        stream,
        dead_letters,
        ids=ids,
        where=where,
        limit=limit,
        field=field,
    )
    async with Admin(url, credentials=credentials) as admin:
        return await admin.dead.select(selection).redrive(to)


async def purge(
    stream: str,
    *,
    ids: Ids | None = None,
    where: Where | None = None,
    before: Before | None = None,
    all: bool = False,  # noqa: A002 - the operator's word
    limit: int | None = None,
    dead_letters: str | None = None,
    field: str = FIELD,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> int:
    """Delete dead letters for good; see `DeadLetterAdmin.purge`."""
    selection = Selection.of(
        "purge",
        stream,
        dead_letters,
        ids=ids,
        where=where,
        before=before,
        limit=limit,
        field=field,
    )
    async with Admin(url, credentials=credentials) as admin:
        return await admin.dead.select(selection).purge(all=all)


async def summary(
    stream: str,
    *,
    where: Where | None = None,
    before: Before | None = None,
    dead_letters: str | None = None,
    url: str | None = None,
    credentials: Credentials | None = None,
) -> Sequence[DeadLetterCount]:
    """Count dead letters by error and group; see `DeadLetterAdmin.summary`."""
    selection = Selection.of(
        "summary", stream, dead_letters, where=where, before=before
    )
    async with Admin(url, credentials=credentials) as admin:
        return await admin.dead.select(selection).summary()
