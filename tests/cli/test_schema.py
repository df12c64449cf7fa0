"""`penstock schema`: what --json prints is what the schemas say, and they only grow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.cli.schema.kinds import KINDS, schema_of
from support.looking import divide, fill, objects, run
from support.members import Members

SNAPSHOTS = Path(__file__).parent / "schemas"


@pytest.fixture(autouse=True)
def _server(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_schema_is_as_it_was(kind: str) -> None:
    """After a field was added, write the new one with PENSTOCK_WRITE_SCHEMAS=1."""
    path = SNAPSHOTS / f"{kind}.json"
    printed = (await run("schema", kind)).stdout
    if "PENSTOCK_WRITE_SCHEMAS" in os.environ:
        path.write_text(printed)
    assert printed == path.read_text()


def test_each_kind_has_a_snapshot_and_each_field_a_text() -> None:
    assert {path.stem for path in SNAPSHOTS.glob("*.json")} == set(KINDS)
    for kind in KINDS:
        for each in schema_of(kind)["$defs"].values():
            for name, field in each.get("properties", {}).items():
                assert field.get("description"), f"{kind}: {each['title']}.{name}"


async def test_the_kinds_are_listed_and_a_wrong_one_is_answered_with_them() -> None:
    listed = (await run("schema")).stdout.splitlines()
    assert [line.split("\t")[0] for line in listed] == list(KINDS)
    result = await run("schema", "groop", status=2)
    assert "there are: group" in result.stderr


def check(kind: str, found: list[dict[str, Any]]) -> None:
    """Check objects against the schema of a kind: no field more or less."""
    struct, _ = KINDS[kind]
    schema = schema_of(kind)["$defs"][struct.__name__]
    assert found
    for each in found:
        # Strictly, so that no number is taken for a text.
        msgspec.convert(each, struct, strict=True)
        _check_fields(each, schema, schema_of(kind)["$defs"])


def _check_fields(
    each: dict[str, Any], schema: dict[str, Any], others: dict[str, Any]
) -> None:
    assert set(each) <= set(schema["properties"])
    assert set(schema["required"]) <= set(each)
    for name, value in each.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            reference = json.dumps(schema["properties"][name]).partition("#/$defs/")[2]
            for inner in value:
                _check_fields(inner, others[reference.partition('"')[0]], others)


async def test_what_is_printed_as_json_fits_the_schema_of_its_kind(
    redis: Any, stream: str
) -> None:
    await fill(redis, stream)
    await divide(redis, f"{stream}-n", 2)
    billing = (stream, "billing")
    check("stream", await objects("streams", f"{stream}*"))
    check("stream", await objects("streams", f"{stream}*", "--shards"))
    check("stream_details", await objects("info", f"{stream}-n"))
    check("group", await objects("groups", stream))
    check("group", await objects("groups", f"{stream}-n", "--shards"))
    check("group", await objects("lag", stream))
    check("group", await objects("top", stream, "--interval", "10ms"))
    check("consumer", await objects("consumers", *billing))
    check("pending", await objects("pending", *billing))
    check("pending_count", await objects("pending", *billing, "--summary"))
    check("trimmed_shard", await objects("trim", stream, "--acked", "--dry-run"))
    check("owned_shard", await objects("owners", f"{stream}-n", "g"))
    check("message", await objects("read", stream, "--limit", 2))
    check("message", await objects("read", f"{stream}.dead", "--no-payload"))
    check("sent", await objects("send", f"{stream}-s", "x"))
    reset = ("reset", stream, "audit", "--to", "latest", "--dry-run")
    check("group_reset", await objects(*reset))
    claimed = ("claim", *billing, "--idle", "0", "--dry-run")
    check("claimed", await objects(*claimed))
    deleted = ("delete", "group", *billing, "--dry-run")
    check("deleted", await objects(*deleted))
    [letter] = await objects("dead", "list", stream)
    check("dead_letter", [letter])
    check("dead_letter_count", await objects("dead", "summary", stream))
    show = ("dead", "show", stream, letter["id"])
    check("dead_letter", await objects(*show))
    check("dead_letter", await objects(*show, "--payload"))
    check("redriven", await objects("dead", "redrive", stream, "--yes"))
    check("purged", await objects("dead", "purge", stream, "--yes"))


async def test_owners_as_json_fit_their_schemas(redis: Any, stream: str) -> None:
    members = Members(redis, stream, 4)
    await members.open({0: "a", 1: "a", 2: "b", 3: "b"})
    found = await objects("owners", stream, "--group", "g")
    check("owned_shard", found[:4])
    check("member", found[4:])
    moved = await objects("owners", stream, "--group", "g", "--move", 0, "--to", "b")
    check("moved_shard", moved)
