"""Send each line of a web server's log, under the address of its client."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from penstock import MaxLen, Outgoing, Producer, Receipt


def lines(path: Path) -> Iterator[Outgoing[str]]:
    with path.open() as file:
        for line in file:
            client = line.partition(" ")[0]
            yield Outgoing(line.rstrip("\n"), key=client)


async def main(path: Path) -> None:
    number = 0
    async with Producer(
        shards=8, idempotent=True, retention=MaxLen(1_000_000)
    ) as producer:
        async for outcome in producer.send_many("access", lines(path)):
            if not isinstance(outcome, Receipt):
                raise outcome  # this line is not stored, or it is not known
            number += 1
    print("sent", number, "lines")


asyncio.run(main(Path(sys.argv[1])))
