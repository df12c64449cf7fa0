"""Asyncio streaming on Redis Streams and Valkey.

A background reader fills a bounded queue, handlers process, and a committer batches
the acknowledgements. `Producer` sends, `Consumer` receives, and `Router` runs the
consumers of many handlers.
"""

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
    NotDurable,
    PenstockError,
    SendFailed,
    SendUnknown,
    ServerError,
    StreamMissing,
    TransactionBroken,
    TransactionFailed,
    UsageError,
)
from penstock.events import Event
from penstock.message import EntryId, Fields, Headers, Message, Receipt, Shard
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
from penstock.sharding import KeyHash, Random, RoundRobin, Sharder
from penstock.statistics import Statistics
from penstock.transaction import Transaction

__all__ = [
    "ACKED",
    "DELAYED",
    "DISABLED",
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
    "KeyHash",
    "MaxAge",
    "MaxLen",
    "Message",
    "MessageOptions",
    "MessageTooLarge",
    "Middleware",
    "Mode",
    "NotDurable",
    "Ordering",
    "Outcome",
    "Outgoing",
    "Outlet",
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
    "Sharder",
    "Start",
    "Statistics",
    "StreamMissing",
    "Transaction",
    "TransactionBroken",
    "TransactionFailed",
    "UsageError",
    "after",
    "json_codec",
    "msgpack_codec",
    "replay",
]
