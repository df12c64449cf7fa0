"""Administration of streams, groups and dead letters.

Each function does one thing, on a connection of its own:

```python
state = await admin.group_state("orders", "billing")
letters = await admin.dead.list("orders")
trimmed = await admin.trim("orders", ACKED)
```

`Admin` keeps its connection for several calls.
"""

from penstock._core.protocol.trimming import GroupStanding
from penstock.admin import dead
from penstock.admin._claims import Claimed
from penstock.admin._dead_letter import DeadLetter, DeadLetterCount
from penstock.admin._dead_letter_admin import DeadLetterAdmin
from penstock.admin._functions import (
    group_state,
    move,
    owners,
    reset_group,
    set_shards,
    streams,
    trim,
    trim_losses,
)
from penstock.admin._group_changes import EntryLosses
from penstock.admin._group_facts import GroupConsumer
from penstock.admin._owners import GroupMember, OwnedShard, Owners
from penstock.admin._reset_effect import ResetEffect
from penstock.admin._shard_moves import ShardMove
from penstock.admin._trim_losses import TrimLoss
from penstock.admin._trimming import Trimmed, TrimTo
from penstock.admin.client import Admin
from penstock.admin.groups import GroupState

DeadLetterOffice = DeadLetterAdmin
"""The former name of `DeadLetterAdmin`."""

__all__ = [
    "Admin",
    "Claimed",
    "DeadLetter",
    "DeadLetterAdmin",
    "DeadLetterCount",
    "DeadLetterOffice",
    "EntryLosses",
    "GroupConsumer",
    "GroupMember",
    "GroupStanding",
    "GroupState",
    "OwnedShard",
    "Owners",
    "ResetEffect",
    "ShardMove",
    "TrimLoss",
    "TrimTo",
    "Trimmed",
    "dead",
    "group_state",
    "move",
    "owners",
    "reset_group",
    "set_shards",
    "streams",
    "trim",
    "trim_losses",
]
