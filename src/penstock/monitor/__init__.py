"""What streams, groups and consumers are doing, for operators.

A `Collector` is opened on one connection and polled. Its results are the values that
the command line prints:

```python
from penstock.monitor import Collector

async with Collector("redis://localhost", ["orders"]) as collector:
    for stream in (await collector.poll()).streams:
        print(stream.stream, stream.length, [group.lag for group in stream.groups])
```
"""

from penstock.monitor.collector import Collector
from penstock.monitor.doctor import Finding, Level, Role
from penstock.monitor.model import (
    ConsumerStatus,
    GroupState,
    GroupStatus,
    PendingCount,
    PendingStatus,
    Problem,
    ServerStatus,
    ShardStatus,
    Snapshot,
    StreamDetails,
    StreamStatus,
)

__all__ = [
    "Collector",
    "ConsumerStatus",
    "Finding",
    "GroupState",
    "GroupStatus",
    "Level",
    "PendingCount",
    "PendingStatus",
    "Problem",
    "Role",
    "ServerStatus",
    "ShardStatus",
    "Snapshot",
    "StreamDetails",
    "StreamStatus",
]
