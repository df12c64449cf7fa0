"""Asyncio streaming on Redis Streams and Valkey.

A background reader fills a bounded queue, handlers process, and a committer batches
the acknowledgements. `Producer` sends, `Consumer` receives.
"""

from penstock.codecs import Codec, json_codec, msgpack_codec
from penstock.consumer import Consumer, Statistics
from penstock.errors import (
    AccessError,
    BufferFull,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DecodeError,
    PenstockError,
    SendFailed,
    SendUnknown,
    ServerError,
    StreamMissing,
    UsageError,
)
from penstock.events import Event
from penstock.message import EntryId, Fields, Headers, Message, Receipt
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
    Claim,
    Commit,
    Mode,
    Ordering,
    Prefetch,
    Start,
)
from penstock.producer import Producer
from penstock.sharding import KeyHash, Random, RoundRobin, Sharder

__all__ = [
    "DELAYED",
    "DISABLED",
    "EARLIEST",
    "IMMEDIATE",
    "LATEST",
    "LOAD_BALANCED",
    "PROCESSED",
    "REALTIME",
    "RESUMABLE",
    "ROLLING",
    "AccessError",
    "AutoCommit",
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
    "DecodeError",
    "EntryId",
    "Event",
    "Fields",
    "Headers",
    "KeyHash",
    "Message",
    "Mode",
    "Ordering",
    "PenstockError",
    "Prefetch",
    "Producer",
    "Random",
    "Receipt",
    "RoundRobin",
    "SendFailed",
    "SendUnknown",
    "ServerError",
    "Sharder",
    "Start",
    "Statistics",
    "StreamMissing",
    "UsageError",
    "json_codec",
    "msgpack_codec",
]
