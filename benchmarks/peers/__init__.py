"""Those that are compared: one file each.

Each has `WAYS`, coroutine functions of a `Job` and a `Clock`: what a way prepares is
not timed; it times itself from the first connection until every message was handled
and nothing is pending, and raises if that does not come. `PACKAGES` are those whose
versions count.
"""

from __future__ import annotations

from dataclasses import dataclass

# A run is to take so long, where there are messages enough: a slow peer gets fewer.
SECONDS = 2.0
FEWEST = 500


@dataclass(frozen=True)
class Candidate:
    """One way of one peer.

    Attributes:
        name: As it is printed.
        peer: Its module in `benchmarks.peers`.
        way: Its name in the module's `WAYS`.
        rate: Messages a second on loopback, very roughly.
        trips: Round trips that it awaits for each message.
        ours: Whether it runs in the project's environment, not in the peers' own.
    """

    name: str
    peer: str
    way: str
    rate: int
    trips: float = 0.0
    ours: bool = False

    def messages(self, most: int, round_trip: float) -> int:
        """How many make a run, at so many seconds a round trip."""
        each = 1 / self.rate + self.trips * round_trip
        return max(min(FEWEST, most), min(most, int(SECONDS / each)))


CONSUMING = [
    Candidate("raw", "raw", "consume", 400_000, 0.004, ours=True),
    Candidate("penstock async for", "penstock", "async_for", 400_000, ours=True),
    Candidate("penstock run(16)", "penstock", "run_16", 300_000, ours=True),
    Candidate("penstock run(batch=500)", "penstock", "run_batch", 400_000, ours=True),
    Candidate("redis-py, XACK a batch", "raw", "redis_py", 200_000, 0.004, ours=True),
    Candidate("redis-py, XACK each", "raw", "redis_py_each", 5_000, 1.0, ours=True),
    Candidate("faststream", "faststream", "single", 1_800, 1.0),
    Candidate("faststream, 16 workers", "faststream", "workers", 1_800, 1 / 16),
    Candidate("faststream batch", "faststream", "batch", 30_000, 0.004),
    Candidate("taskiq-redis", "taskiq", "consume", 1_500, 1 / 16),
    Candidate("streaq", "streaq", "consume", 600, 1 / 16),
]

SENDING = [
    Candidate("raw", "raw", "send", 500_000, 0.002, ours=True),
    Candidate("penstock enqueue", "penstock", "enqueue", 400_000, ours=True),
    Candidate(
        "penstock send, 50 at a time", "penstock", "send_50", 50_000, 0.02, ours=True
    ),
    Candidate("redis-py pipeline", "raw", "redis_py_send", 100_000, 0.002, ours=True),
    Candidate("faststream publish, 50 at a time", "faststream", "send_50", 7_000, 0.02),
    Candidate("taskiq-redis kiq, 50 at a time", "taskiq", "send_50", 3_000, 0.02),
    Candidate("streaq enqueue_many of 100", "streaq", "send_100", 9_000, 0.01),
]
