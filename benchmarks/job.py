"""What a contender is told, and what it tells: JSON between two processes.

Contenders run in the peers' environment too, so this imports nothing but the standard
library; nor does what they import of ours import Penstock.
"""

from __future__ import annotations

from dataclasses import dataclass, field

STREAM = "bench"
GROUP = "bench"
# Entries in one read, wherever one can say it.
COUNT = 500


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        url: The way to the server; through the delay proxy, if there is one.
        direct: The server itself, for what is not measured.
        messages: How many are to be handled, or sent.
        loop: `asyncio` or `uvloop`.
        payload: Bytes of a message.
        shards: Over how many keys they are spread.
        concurrency: Handlers at a time, for those that say it.
        wait: Seconds for which a handler awaits something.
    """

    url: str
    direct: str
    messages: int
    loop: str = "asyncio"
    payload: int = 200
    shards: int = 1
    concurrency: int = 16
    wait: float = 0.0

    @property
    def keys(self) -> list[str]:
        """The stream's keys."""
        if self.shards == 1:
            return [STREAM]
        return [f"{STREAM}:{number}" for number in range(self.shards)]


@dataclass(frozen=True)
class Run:
    """What one run took.

    Attributes:
        messages: How many were handled, or sent.
        seconds: From the first connection until nothing was pending any more.
        client_cpu: Processor seconds of the contender's process.
        server_cpu: Processor seconds of the server.
        calls: How often the server executed each command.
        executing: Microseconds it spent on each, without reading and writing.
    """

    messages: int
    seconds: float
    client_cpu: float
    server_cpu: float
    calls: dict[str, int] = field(default_factory=dict)
    executing: dict[str, int] = field(default_factory=dict)
