"""What `penstock doctor` says of streams, from what a poll saw."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.monitor import GroupState, GroupStatus, Problem, Snapshot, StreamStatus
from penstock.monitor.doctor.findings import Finding
from penstock.monitor.doctor.stream_checks import check_streams


def group(**values: Any) -> GroupStatus:
    names = GroupStatus.__struct_fields__
    zeros = {"lag": 0, "pending": 0, "backlog": 0, "gone": 0, "lag_exact": True}
    base = {**dict.fromkeys(names), "group": "billing", "state": GroupState.OK}
    return GroupStatus(**{**base, **zeros, **values})


def stream(**values: Any) -> StreamStatus:
    base: dict[str, Any] = {
        **dict.fromkeys(StreamStatus.__struct_fields__),
        "stream": "or ders",
        "shards": 1,
        "length": 1,
        "groups": [],
        "dead_letters": 0,
        "last_id": "0-0",
        "entries_added": 1,
    }
    return StreamStatus(**{**base, **values})


def judged(*streams: StreamStatus, **values: Any) -> list[Finding]:
    base: dict[str, Any] = {"shards": [], "problems": [], "missing": []}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    snapshot = Snapshot(time=now, streams=list(streams), **{**base, **values})
    return list(check_streams(snapshot))


def test_streams_that_are_well_are_one_finding() -> None:
    [found] = judged(stream(groups=[group()]), stream())
    assert (found.level, found.found) == ("ok", "streams: 2, groups: 1")


@pytest.mark.parametrize(
    ("values", "level", "remedy"),
    [
        ({"dead_letters": 3}, "warn", "penstock dead summary 'or ders'"),
        ({"dead_letters": None}, "note", None),
        (
            {"length": 10_000, "entries_added": 10_000},
            "warn",
            "penstock trim 'or ders' --acked",
        ),
        (
            {"length": 10_000, "entries_added": None},
            "note",
            "penstock trim 'or ders' --acked",
        ),
        ({"first_id": "17-0"}, "warn", "penstock info 'or ders'"),
    ],
)
def test_what_ails_a_stream_is_found(
    values: Any, level: str, remedy: str | None
) -> None:
    [found] = judged(stream(**values))
    assert (found.level, found.remedy) == (level, remedy)


@pytest.mark.parametrize(
    "values",
    [
        {"length": 9_999, "entries_added": 9_999},
        {"length": 10_000, "entries_added": 10_001},
        {"length": 9_999, "entries_added": None},
        {"first_id": "1772366400250-0", "first_age_seconds": 1.0},
    ],
)
def test_what_is_not_wrong_is_not_reported(values: Any) -> None:
    [found] = judged(stream(**values))
    assert found.level == "ok"


@pytest.mark.parametrize("state", [GroupState.UNREAD, GroupState.NO_CONSUMERS])
def test_a_group_that_nobody_reads_is_found_with_its_number(state: GroupState) -> None:
    [found] = judged(stream(groups=[group(state=state, backlog=1_204)]))
    assert found.level == "warn"
    assert found.meaning.startswith("messages that wait: 1,204;")
    assert found.remedy == "penstock delete group 'or ders' billing"
    bound = group(state=state, backlog=5, lag_exact=False)
    [found] = judged(stream(groups=[bound]))
    assert found.meaning.startswith("messages that wait: up to 5;")


def test_consumers_that_are_gone_are_found() -> None:
    [found] = judged(stream(groups=[group(gone=2)]))
    assert found.found == "2 consumers of group billing of or ders are gone"
    assert found.remedy == "penstock consumers 'or ders' billing"


def test_what_is_missing_or_refused_is_said() -> None:
    problem = Problem(stream="a\x1b", text="NOPERM")
    missing, refused = judged(problems=[problem], missing=["b"])
    assert missing.level == "warn"
    assert refused.level == "note"
    assert refused.found == r"a\x1b is not known: NOPERM"
