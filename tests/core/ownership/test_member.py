"""A member: what it sends when, and what it makes of the replies."""

from __future__ import annotations

import pytest

from penstock._core.ownership.actions import (
    Assign,
    Beat,
    Leave,
    MemberAction,
    News,
    Own,
)
from penstock._core.ownership.member import Member
from penstock._core.ownership.states import IllegalTransition, MemberState
from penstock._core.ownership.target import encode
from penstock._core.protocol.ownership_replies import Assigned, Beaten

NEVER = float("inf")
ALONE = Beaten(0, None, {"a": 1})


def member(*, static: bool = False, settle: float = 0.0) -> Member:
    return Member("a", lease=10.0, static=static, settle=settle)


def joined(*, static: bool = False, members: str = "a") -> Member:
    """Return a member that has the shards 0 and 1, alone or with others."""
    one = member(static=static)
    one.open([0, 1], 0.0)
    target = encode({0: "a", 1: "a"})
    if members != "a":
        target = encode({0: "a", 1: "b"})
    one.beaten(Beaten(3, target, dict.fromkeys(members, 1)), 0.0)
    return one


def test_opening_joins_and_the_first_member_plans() -> None:
    one = member()
    assert one.open([0, 1], 0.0) == [Beat(0, join=True)]
    target = {0: "a", 1: "a"}
    assert one.beaten(ALONE, 0.1) == [Own(0, frozenset()), Assign(0, 0, target)]
    assert one.state is MemberState.IN
    stored = Assigned(stored=True, version=1)
    assert one.assigned(stored, target, 0.2) == [News(), Own(1, frozenset({0, 1}))]


def test_a_lost_race_is_followed_by_a_beat() -> None:
    one = member()
    one.open([0], 0.0)
    one.beaten(ALONE, 0.0)
    lost = Assigned(stored=False, version=7)
    assert one.assigned(lost, {0: "a"}, 0.1) == [Beat(0, join=False)]
    found = Beaten(7, encode({0: "b"}), {"a": 1, "b": 1})
    assert one.beaten(found, 0.2) == [Own(7, frozenset())]


def test_it_beats_each_fifth_of_a_lease_and_not_while_one_is_unanswered() -> None:
    one = joined()
    assert one.due_at() == 2.0
    assert one.due(1.9) == []
    assert one.due(2.0) == [Beat(3, join=False)]
    assert one.due_at() == NEVER
    assert one.beaten(Beaten(3, None, {"a": 1}), 2.1) == []
    assert one.due_at() == 4.0


def test_news_bring_a_beat_or_one_more_after_the_present_one() -> None:
    one = joined()
    assert one.news(0.5) == [Beat(3, join=False)]
    assert one.news(0.6) == []
    same = Beaten(3, None, {"a": 1})
    assert one.beaten(same, 0.7) == [Beat(3, join=False)]
    assert one.beaten(same, 0.8) == []


def test_a_lost_reply_is_followed_by_a_beat_and_changes_nothing() -> None:
    one = joined()
    one.due(2.0)
    assert one.beat_lost(2.5) == [Beat(3, join=False)]
    assert one.state is MemberState.IN
    assert one.target == {0: "a", 1: "a"}


def test_a_removed_member_joins_again_and_keeps_its_shards() -> None:
    one = joined()
    one.due(2.0)
    assert one.beaten(None, 2.1) == [Beat(3, join=True)]
    assert one.state is MemberState.JOINING
    same = Beaten(3, None, {"a": 1})
    assert one.beaten(same, 2.2) == [Own(3, frozenset({0, 1}))]


def test_a_member_that_was_never_in_is_not_removed() -> None:
    one = member()
    one.open([0], 0.0)
    assert one.beaten(None, 0.1) == []


def test_only_the_first_member_adds_shards_that_appear() -> None:
    first = joined(members="ab")
    assert first.shards_found([2], 1.0)[-1] == Beat(3, join=False)
    answer = Beaten(3, None, {"a": 1, "b": 1})
    assert first.beaten(answer, 1.1) == [Assign(3, 0, {0: "a", 1: "b", 2: "a"})]
    second = Member("b", lease=10.0)
    second.open([0, 1, 2], 0.0)
    known = Beaten(3, encode({0: "a", 1: "b"}), {"a": 1, "b": 1})
    assert second.beaten(known, 0.1) == [Own(3, frozenset({1}))]


def test_a_member_has_shards_of_the_target_that_it_finds_later_than_others() -> None:
    late = joined(members="ab")
    moved = Beaten(4, encode({0: "a", 1: "b", 2: "a"}), {"a": 1, "b": 1})
    late.due(2.0)
    late.beaten(moved, 2.1)
    found = late.shards_found([2], 3.0)
    assert found == [Own(4, frozenset({0, 2})), Beat(4, join=False)]


def test_a_new_group_waits_for_more_members_before_the_first_plan() -> None:
    one = member(settle=1.0)
    one.open([0], 0.0)
    assert one.beaten(ALONE, 0.1) == [Own(0, frozenset())]
    assert one.due_at() == 1.1
    assert one.due(1.1) == [Beat(0, join=False)]
    assert one.beaten(ALONE, 1.2) == [Assign(0, 0, {0: "a"})]


def test_a_group_whose_hash_was_deleted_goes_on_with_its_target() -> None:
    one = joined(members="ab")
    one.due(2.0)
    found = Beaten(0, None, {"a": 1, "b": 1})
    assert one.beaten(found, 2.1) == [Assign(0, 3, {0: "a", 1: "b"})]


def test_a_version_that_a_shard_has_seen_is_exceeded() -> None:
    one = joined()
    assert one.version_seen(9, 1.0) == [Beat(3, join=False)]
    same = Beaten(3, None, {"a": 1})
    assert one.beaten(same, 1.1) == [Assign(3, 9, {0: "a", 1: "a"})]


def test_a_target_that_can_not_be_read_is_replaced() -> None:
    one = joined()
    one.due(2.0)
    found = Beaten(4, b"nonsense", {"a": 1})
    own, stored = one.beaten(found, 2.1)
    assert own == Own(4, frozenset())
    assert stored == Assign(4, 3, {0: "a", 1: "a"})


def test_closing_leaves_at_once_and_beats_no_more() -> None:
    one = joined()
    one.due(2.0)
    assert one.close() == [Own(3, frozenset()), Leave(), News()]
    assert one.leave_lost() == [Leave(), News()]
    assert one.beaten(Beaten(3, None, {"a": 1}), 2.1) == []
    assert one.beat_lost(2.2) == []
    assert one.news(2.3) == []
    assert one.due_at() == NEVER
    one.all_absent()
    assert one.state is MemberState.OUT
    assert one.leave_lost() == []


def test_closing_a_static_member_keeps_its_place_while_it_drains() -> None:
    one = joined(static=True)
    assert one.close() == [Own(3, frozenset())]
    assert one.due(2.0) == [Beat(3, join=False)]
    moved = Beaten(4, encode({0: "b"}), {"a": 1, "b": 1})
    assert one.beaten(moved, 2.1) == [Own(4, frozenset())]
    assert one.due(4.1) == [Beat(4, join=False)]
    assert one.beaten(None, 4.2) == []


@pytest.mark.parametrize("out", [False, True])
def test_a_target_that_is_stored_after_closing_gives_nothing(*, out: bool) -> None:
    one = member()
    one.open([0], 0.0)
    one.beaten(ALONE, 0.0)
    one.close()
    if out:
        one.all_absent()
    actions: list[MemberAction] = [News(), Own(1, frozenset())]
    assert one.assigned(Assigned(stored=True, version=1), {0: "a"}, 0.1) == actions
    assert one.assigned(Assigned(stored=False, version=2), {0: "a"}, 0.1) == []


def test_an_event_that_the_table_does_not_list_is_a_bug() -> None:
    with pytest.raises(IllegalTransition, match="all absent is not possible in state"):
        member().all_absent()
