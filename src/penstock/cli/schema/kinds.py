"""The kinds of objects that `--json` prints, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from penstock.cli.changing.claim import ClaimedEntries
from penstock.cli.changing.delete import Deleted
from penstock.cli.changing.reset import GroupReset
from penstock.cli.dead.report import CountRow, LetterRow, Purged, Redriven
from penstock.cli.demo.report import DemoResult
from penstock.cli.messages.send import SentMessage
from penstock.cli.messages.shown import MessageRow
from penstock.cli.owners.report import MemberRow, MovedShard, OwnedRow
from penstock.cli.trim.report import TrimmedShard
from penstock.health import Health
from penstock.monitor import (
    ConsumerStatus,
    Finding,
    GroupStatus,
    PendingCount,
    PendingStatus,
    StreamDetails,
    StreamStatus,
)

__all__ = ["KINDS", "schema_of"]

KINDS: Final[Mapping[str, tuple[type[msgspec.Struct], str]]] = {
    "claimed": (ClaimedEntries, "claim"),
    "consumer": (ConsumerStatus, "consumers"),
    "dead_letter": (LetterRow, "dead list, dead show"),
    "dead_letter_count": (CountRow, "dead summary"),
    "deleted": (Deleted, "delete"),
    "demo": (DemoResult, "demo"),
    "finding": (Finding, "doctor"),
    "group": (GroupStatus, "groups, lag, top; within the objects of streams and info"),
    "group_reset": (GroupReset, "reset"),
    "health": (Health, "run --port, at /health"),
    "member": (MemberRow, "owners, behind the shards"),
    "message": (MessageRow, "read, tail; read by send --json-lines"),
    "moved_shard": (MovedShard, "owners --move"),
    "owned_shard": (OwnedRow, "owners"),
    "pending": (PendingStatus, "pending"),
    "pending_count": (PendingCount, "pending --summary"),
    "purged": (Purged, "dead purge"),
    "redriven": (Redriven, "dead redrive"),
    "sent": (SentMessage, "send"),
    "stream": (StreamStatus, "streams"),
    "stream_details": (StreamDetails, "info"),
    "trimmed_shard": (TrimmedShard, "trim"),
}
"""The struct of each kind, and the commands that print it."""

_ATTRIBUTES: Final = "\n\nAttributes:\n"
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


def schema_of(kind: str) -> dict[str, Any]:
    """Return the JSON schema of a kind."""
    struct, commands = KINDS[kind]
    found = msgspec.json.schema(struct)
    for each in found["$defs"].values():
        _describe(each)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"printed by: penstock {commands}",
        **found,
    }


def _describe(schema: dict[str, Any]) -> None:
    """Give each property the text that the docstring of its struct has for it."""
    summary, _, attributes = schema.get("description", "").partition(_ATTRIBUTES)
    schema["description"] = summary
    for name, text in _ATTRIBUTE.findall(attributes):
        if name in schema.get("properties", {}):
            schema["properties"][name]["description"] = " ".join(text.split())
