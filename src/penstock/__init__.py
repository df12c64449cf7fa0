"""Asyncio streaming on Redis Streams and Valkey.

A background reader fills a bounded queue, handlers process, and a committer batches
the acknowledgements. `Producer` sends, `Consumer` receives, and `Router` runs the
consumers of many handlers.
"""

from penstock._version import __version__
from penstock.codecs import Codec, PayloadError, json_codec, msgpack_codec
from penstock.consumer import Consumer
from penstock.errors import (
    AccessError,
    BufferFull,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DecodeError,
    GaveUp,
    MessageTooLarge,
    NameInUse,
    NotDurable,
    PenstockError,
    SendFailed,
    SendUnknown,
    ServerError,
    ShardsDiffer,
    StreamMissing,
    TransactionBroken,
    TransactionFailed,
    UsageError,
)
from penstock.events import Event
from penstock.fields import Fields, Headers
from penstock.injection import Inject
from penstock.message import EntryId, Message, Receipt, Shard
from penstock.middleware import Middleware
from penstock.options import (
    DELAYED,
    DISABLED,
    EARLIEST,
    IMMEDIATE,
    LATEST,
    LOAD_BALANCED,
    PROCESSED,
    REALTIME,
    RESUMABLE,
    ROLLING,
    AutoCommit,
    Batch,
    Claim,
    Commit,
    Mode,
    Ordering,
    Owned,
    Ownership,
    Prefetch,
    Start,
    after,
)
from penstock.outgoing import MessageOptions, Outcome, Outgoing, SendOptions
from penstock.outlet import Outlet
from penstock.producer import Producer
from penstock.replay import Replay, replay
from penstock.retention import ACKED, KEEP_ALL, MaxAge, MaxLen, Retention
from penstock.retries import DROP, STOP, Backoff, DeadLetters, Retry
from penstock.router import Router
from penstock.sharding import (
    DISCOVER,
    KeyHash,
    Random,
    RoundRobin,
    Sharder,
    ShardRecord,
    ShardSearch,
)
from penstock.statistics import Statistics
from penstock.transaction import Transaction

__all__ = [
    "ACKED",
    "DELAYED",
    "DISABLED",
    "DISCOVER",
    "DROP",
    "EARLIEST",
    "IMMEDIATE",
    "KEEP_ALL",
    "LATEST",
    "LOAD_BALANCED",
    "PROCESSED",
    "REALTIME",
    "RESUMABLE",
    "ROLLING",
    "STOP",
    "AccessError",
    "AutoCommit",
    "Backoff",
    "Batch",
    "BufferFull",
    "Claim",
    "ClosedError",
    "Codec",
    "CommandError",
    "Commit",
    "ConfigurationError",
    "ConnectError",
    "ConnectionLost",
    "Consumer",
    "DeadLetters",
    "DecodeError",
    "EntryId",
    "Event",
    "Fields",
    "GaveUp",
    "Headers",
    "Inject",
    "KeyHash",
    "MaxAge",
    "MaxLen",
    "Message",
    "MessageOptions",
    "MessageTooLarge",
    "Middleware",
    "Mode",
    "NameInUse",
    "NotDurable",
    "Ordering",
    "Outcome",
    "Outgoing",
    "Outlet",
    "Owned",
    "Ownership",
    "PayloadError",
    "PenstockError",
    "Prefetch",
    "Producer",
    "Random",
    "Receipt",
    "Replay",
    "Retention",
    "Retry",
    "RoundRobin",
    "Router",
    "SendFailed",
    "SendOptions",
    "SendUnknown",
    "ServerError",
    "Shard",
    "ShardRecord",
    "ShardSearch",
    "Sharder",
    "ShardsDiffer",
    "Start",
    "Statistics",
    "StreamMissing",
    "Transaction",
    "TransactionBroken",
    "TransactionFailed",
    "UsageError",
    "__version__",
    "after",
    "json_codec",
    "msgpack_codec",
    "replay",
]
