"""A shard as its member sees it: what each event leads to."""

from __future__ import annotations

import pytest

from penstock._core.ownership.actions import (
    Abandon,
    CallAssigned,
    CallLost,
    CallRevoked,
    ClaimStrays,
    DropQueue,
    Free,
    HandOut,
    Keep,
    NameInUse,
    News,
    Recover,
    Take,
    VersionSeen,
)
from penstock._core.ownership.shard import OwnedShard
from penstock._core.ownership.states import ShardState
from penstock._core.ownership.tokens import Token
from penstock._core.protocol.ownership_replies import Refused, Taken

NEVER = float("inf")
OURS = Token(1, "a", "run", 1)
OLD = Token(9, "a", "old", 1)
OTHER = b"2:b:other.1"


def shard() -> OwnedShard:
    return OwnedShard("a", "run", lease=10.0, drain=30.0)


def taken() -> OwnedShard:
    """Return a shard that recovers, taken at 0."""
    one = shard()
    one.wanted(1, 0.0)
    one.take_answered(Taken(1, more=False), 0.1)
    return one


def live() -> OwnedShard:
    one = taken()
    one.recovered(OURS, 1, 0.2)
    one.assigned(OURS, 0.2)
    assert one.state is ShardState.LIVE
    return one


def draining() -> OwnedShard:
    one = live()
    one.unwanted(1.0)
    return one


def lost(current: bytes = OTHER) -> OwnedShard:
    one = live()
    one.fenced(OURS, current, 1.0)
    return one


# -- taking ----------------------------------------------------------------------------


def test_a_shard_is_taken_recovered_and_live() -> None:
    one = shard()
    assert one.wanted(1, 0.0) == [Take(1, 1, 0)]
    assert one.due_at() == NEVER
    assert one.take_answered(Taken(1, more=True), 0.1) == [
        Recover(OURS, 0, 1, claim=True),
        CallAssigned(),
    ]
    assert (one.token, one.consumer) == (OURS, "a#1")
    assert one.recovered(OURS, 1, 0.2) == []
    assert not one.may_start(0.2)
    assert one.assigned(OURS, 0.3) == []
    assert one.state is ShardState.LIVE
    assert one.may_start(0.3)
    assert one.may_read(0.3)


def test_the_lease_begins_when_the_take_was_sent() -> None:
    one = shard()
    one.wanted(1, 0.0)
    assert one.take_lost(4.0) == [Take(1, 1, 0)]
    one.take_answered(Taken(1, more=False), 13.0)
    one.assigned(OURS, 13.0)
    one.recovered(OURS, 1, 13.0)
    assert one.may_start(13.9)
    assert not one.may_start(14.0)


def test_one_that_is_held_is_asked_for_again_when_its_lease_is_over() -> None:
    one = shard()
    one.wanted(1, 0.0)
    assert one.take_answered(Refused("held", 4000), 1.0) == []
    assert one.due_at() == 5.0
    assert one.due(4.9) == []
    assert one.due(5.0) == [Take(1, 2, 0)]


def test_one_that_is_held_is_asked_for_again_on_news() -> None:
    one = shard()
    one.wanted(1, 0.0)
    one.take_answered(Refused("held", 4000), 1.0)
    assert one.news(1.5) == [Take(1, 2, 0)]
    assert one.news(1.6) == []
    assert one.take_answered(Refused("held", 4000), 1.7) == [Take(1, 3, 0)]


def test_after_an_older_target_the_member_looks_for_the_newer_one() -> None:
    one = shard()
    one.wanted(1, 0.0)
    assert one.take_answered(Refused("old", 7), 0.1) == [VersionSeen(7)]
    assert one.due_at() == NEVER
    assert one.wanted(1, 0.2) == []
    assert one.wanted(7, 0.3) == [Take(7, 2, 0)]


def test_a_stale_take_is_followed_by_the_next() -> None:
    one = shard()
    one.wanted(1, 0.0)
    assert one.take_answered(Refused("stale", 0), 0.1) == [Take(1, 2, 0)]


def test_one_that_is_not_wanted_any_more_is_freed_at_once() -> None:
    one = shard()
    one.wanted(1, 0.0)
    assert one.unwanted(0.1) == []
    free = [DropQueue(), Free(OURS)]
    assert one.take_answered(Taken(1, more=False), 0.2) == free
    assert one.freed(OURS, 0.3) == [News()]
    assert one.state is ShardState.ABSENT
    assert one.due_at() == NEVER


def test_a_shard_whose_callback_failed_is_given_back_for_a_lease() -> None:
    one = taken()
    assert one.assign_failed(OLD, 0.2) == []
    assert one.assign_failed(OURS, 0.2) == [DropQueue()]
    assert one.handlers_done(OURS) == [Free(OURS)]
    assert one.freed(OURS, 0.3) == [News()]
    assert one.due_at() == 10.2
    # Its own news come back to it, and others change things as well.
    assert one.news(0.4) == []
    assert one.wanted(2, 0.5) == []
    assert one.due(10.1) == []
    assert one.due(10.2) == [Take(2, 2, 1)]


def test_a_callback_that_fails_late_ends_what_waited_for_it() -> None:
    one = taken()
    one.unwanted(0.2)
    assert one.handlers_done(OURS) == []
    assert one.assign_failed(OURS, 0.3) == [Free(OURS)]
    one = taken()
    assert one.fenced(OURS, OTHER, 0.2) == [DropQueue()]
    one.assign_failed(OURS, 0.3)
    assert one.state is ShardState.ABSENT


# -- the lease -------------------------------------------------------------------------


def test_the_lease_is_kept_after_a_fifth_of_it() -> None:
    one = live()
    assert one.due_at() == 2.0
    assert one.due(1.9) == []
    assert one.due(2.0) == [Keep(OURS)]
    assert one.due_at() == 10.0
    assert one.kept(OURS, 2.1) == []
    assert one.due_at() == 4.0
    assert one.may_start(11.9)


def test_a_lost_keep_is_sent_again() -> None:
    one = live()
    one.due(2.0)
    assert one.keep_lost(OLD) == []
    assert one.due(2.5) == []
    assert one.keep_lost(OURS) == []
    assert one.due(2.5) == [Keep(OURS)]


def test_nothing_starts_after_the_lease_until_it_is_kept() -> None:
    one = live()
    assert not one.may_start(10.0)
    assert one.due(10.0) == [Keep(OURS)]
    assert one.due_at() == NEVER
    one.kept(OLD, 10.1)
    assert not one.may_start(10.1)
    one.kept(OURS, 10.1)
    assert one.state is ShardState.LIVE
    one.kept(OURS, 10.1)
    assert one.may_start(19.9)


def test_a_keep_that_was_answered_too_late_is_sent_again() -> None:
    one = live()
    one.due(10.0)
    one.kept(OURS, 20.0)
    assert one.state is ShardState.HELD
    assert one.due(20.0) == [Keep(OURS)]


def test_a_shard_that_was_recovered_too_late_is_held() -> None:
    one = taken()
    one.assigned(OURS, 10.0)
    one.recovered(OURS, 1, 10.0)
    assert one.state is ShardState.HELD


# -- reading ---------------------------------------------------------------------------


def test_a_read_is_handed_out_if_the_token_behind_it_is_ours() -> None:
    one = live()
    one.read_sent()
    assert not one.may_read(0.5)
    answer = one.read_answered(OURS, OURS.encode(), [b"a#1", b"shared"], 0.6)
    assert answer == [HandOut()]
    assert one.may_read(0.6)


def test_strays_are_claimed_before_anything_is_read_on() -> None:
    one = live()
    one.read_sent()
    answer = one.read_answered(OURS, OURS.encode(), [b"a#1", b"b#0"], 0.6)
    assert answer == [ClaimStrays(OURS, 0)]
    assert not one.may_read(0.6)
    assert one.strays_recorded(OLD) == []
    assert not one.may_read(0.6)
    assert one.strays_recorded(OURS) == []
    assert one.may_read(0.6)


def test_a_page_is_recorded_if_nothing_behind_it_says_otherwise() -> None:
    one = live()
    assert one.page_answered(OURS, OURS.encode(), [b"a#1", b"shared"], 1.0) == []
    assert one.may_read(1.0)


def test_strays_behind_a_page_are_claimed_before_it_is_listed_again() -> None:
    one = live()
    strays = [ClaimStrays(OURS, 0)]
    assert one.page_answered(OURS, OURS.encode(), [b"a#1", b"b#0"], 1.0) == strays
    assert not one.may_read(1.0)
    assert one.page_answered(OLD, OLD.encode(), [b"b#0"], 1.0) == []
    one.strays_recorded(OURS)
    assert one.may_read(1.0)


def test_a_page_behind_which_another_token_stands_is_not_believed() -> None:
    one = live()
    assert DropQueue() in one.page_answered(OURS, OTHER, [], 1.0)
    assert one.state is not ShardState.LIVE
    assert one.page_answered(OURS, OTHER, [], 1.0) == []


def test_what_consumers_have_that_own_nothing_is_claimed_once_at_a_time() -> None:
    one = taken()
    assert one.mixed() == []
    one = live()
    assert one.mixed() == [ClaimStrays(OURS, 0)]
    assert one.mixed() == []


def test_it_is_known_until_when_handlers_may_start() -> None:
    assert taken().starts_until == NEVER
    assert (live().starts_until, live().owned_until) == (10.0, 10.0)


def test_it_is_known_until_when_the_server_may_keep_a_shard_for_its_owner() -> None:
    one = shard()
    assert one.taken_until == -NEVER
    one.wanted(1, 5.0)
    assert one.taken_until == 15.0  # the TAKE may be executed without a reply
    one.take_answered(Taken(1, more=False), 5.1)
    assert one.taken_until == 15.0
    assert one.due(7.0) == [Keep(OURS)]
    assert (one.taken_until, one.owned_until) == (17.0, 15.0)
    one.keep_lost(OURS)
    assert one.taken_until == 17.0
    one.assigned(OURS, 8.0)
    one.unwanted(8.0)
    one.handlers_done(OURS)
    assert one.end_told(OURS, 8.0) == [Free(OURS)]
    assert one.taken_until == 17.0
    one.freed(OURS, 8.1)
    assert one.taken_until == lost().taken_until == -NEVER


def test_a_read_behind_which_another_token_stands_is_not_believed() -> None:
    one = live()
    one.read_sent()
    assert one.read_answered(OURS, OTHER, [], 0.6) == [DropQueue(), CallLost()]
    assert one.state is ShardState.LOST


def test_replies_of_former_ownerships_do_not_count() -> None:
    one = live()
    assert one.read_answered(OURS, OTHER, [], 0.5) == []
    one.read_sent()
    assert one.read_answered(OLD, OTHER, [], 0.6) == []
    assert one.read_lost(OLD, 0.6) == []
    assert one.claim_lost(OLD, 0.6) == []
    assert one.write_answered(OLD) == []
    assert one.fenced(OLD, OTHER, 0.6) == []
    assert one.recovered(OLD, 1, 0.6) == []
    assert one.assigned(OLD, 0.6) == []
    assert one.handlers_done(OLD) == []
    assert one.end_told(OLD, 0.6) == []
    assert one.freed(OLD, 0.6) == []
    assert one.state is ShardState.LIVE
    assert not one.counts(OLD)


def test_after_a_lost_read_the_shard_is_recovered_under_another_name() -> None:
    one = live()
    one.read_sent()
    assert one.read_lost(OURS, 1.0) == [Recover(OURS, 1, 2, claim=True)]
    assert one.consumer == "a#1.1"
    assert one.claim_lost(OURS, 1.1) == [Recover(OURS, 2, 3, claim=True)]
    one.recovered(OURS, 2, 1.2)
    assert not one.may_start(1.2)
    one.recovered(OURS, 3, 1.2)
    assert one.state is ShardState.LIVE


# -- giving up -------------------------------------------------------------------------


def test_a_shard_is_freed_after_handlers_answers_and_the_callback() -> None:
    one = live()
    one.read_sent()
    one.write_sent()
    assert one.unwanted(1.0) == [DropQueue()]
    assert one.unwanted(1.0) == []
    assert one.counts(OURS)
    assert one.handlers_done(OURS) == []
    assert one.read_answered(OURS, OURS.encode(), [b"b#0"], 1.2) == []
    assert one.write_answered(OURS) == [CallRevoked()]
    assert one.end_told(OURS, 1.3) == [Free(OURS)]
    assert one.free_lost(OURS) == [Free(OURS)]
    assert one.freed(OURS, 1.4) == [News()]


def test_a_lost_read_is_over_for_a_shard_that_drains() -> None:
    one = live()
    one.read_sent()
    one.unwanted(1.0)
    one.handlers_done(OURS)
    assert one.read_lost(OURS, 1.1) == [CallRevoked()]


def test_handlers_that_run_too_long_are_abandoned() -> None:
    one = draining()
    assert one.due(2.0) == [Keep(OURS)]
    assert one.due_at() == 31.0
    assert one.due(31.0) == [Abandon(), CallRevoked()]
    assert not one.counts(OURS)
    assert one.due_at() == NEVER


def test_no_handler_is_abandoned_that_is_done() -> None:
    one = draining()
    one.write_sent()
    one.handlers_done(OURS)
    one.due(2.0)
    assert one.due(31.0) == []


def test_a_shard_that_is_ours_again_is_recovered_without_a_take() -> None:
    one = draining()
    assert one.wanted(2, 1.5) == [Recover(OURS, 0, 2, claim=True)]
    one.recovered(OURS, 2, 1.6)
    assert one.state is ShardState.LIVE


def test_it_is_recovered_after_the_read_that_was_in_the_air() -> None:
    one = live()
    one.read_sent()
    one.unwanted(1.0)
    assert one.wanted(2, 1.5) == []
    answer = one.read_answered(OURS, OURS.encode(), [], 1.6)
    assert answer == [Recover(OURS, 0, 3, claim=True)]


def test_a_shard_whose_end_was_told_is_taken_anew() -> None:
    one = draining()
    assert one.handlers_done(OURS) == [CallRevoked()]
    assert one.wanted(2, 1.5) == []
    assert one.end_told(OURS, 1.6) == [Free(OURS)]
    assert one.freed(OURS, 1.7) == [News(), Take(2, 2, 1)]


def test_the_end_is_not_told_before_the_begin() -> None:
    one = taken()
    one.unwanted(0.2)
    assert one.handlers_done(OURS) == []
    assert one.assigned(OURS, 0.3) == [CallRevoked()]


def test_a_shard_that_is_fenced_while_it_is_freed_is_free() -> None:
    one = draining()
    one.handlers_done(OURS)
    one.end_told(OURS, 1.1)
    assert one.fenced(OURS, OTHER, 1.2) == [News()]
    assert one.fenced(OURS, OTHER, 1.2) == []
    assert one.state is ShardState.ABSENT


# -- losing ----------------------------------------------------------------------------


def test_a_lost_shard_is_taken_again_when_its_read_has_ended_and_all_is_told() -> None:
    one = live()
    one.read_sent()
    assert one.fenced(OURS, OTHER, 1.0) == [DropQueue(), CallLost()]
    assert not one.counts(OURS)
    assert one.end_told(OURS, 1.1) == []
    assert one.read_answered(OURS, OURS.encode(), [], 1.2) == [Take(1, 2, 2)]


def test_a_loss_while_the_begin_is_told_is_told_after_it() -> None:
    one = taken()
    assert one.fenced(OURS, b"", 0.2) == [DropQueue()]
    assert one.assigned(OURS, 0.3) == [CallLost()]
    assert one.end_told(OURS, 0.4) == [Take(1, 2, 1)]


def test_a_loss_after_the_end_was_told_is_not_told() -> None:
    one = draining()
    assert one.handlers_done(OURS) == [CallRevoked()]
    assert one.fenced(OURS, OTHER, 1.2) == [DropQueue()]
    assert one.end_told(OURS, 1.3) == []
    assert one.state is ShardState.ABSENT


def test_a_lost_read_ends_the_wait_of_a_lost_shard() -> None:
    one = live()
    one.read_sent()
    one.fenced(OURS, OTHER, 1.0)
    one.end_told(OURS, 1.1)
    assert one.read_lost(OURS, 1.2) == [Take(1, 2, 2)]


def test_a_drained_shard_awaits_its_handlers_only_once() -> None:
    one = live()
    assert not one.awaits_handlers
    one.unwanted(1.0)
    assert one.awaits_handlers
    one.handlers_done(OURS)
    assert not one.awaits_handlers  # though `on_revoked` still runs


def test_a_namesake_ends_the_shard() -> None:
    one = live()
    one.read_sent()
    answer = one.fenced(OURS, b"2:a:another.1", 1.0)
    assert answer == [DropQueue(), CallLost(), NameInUse()]
    assert one.state is ShardState.ENDED
    one.end_told(OURS, 1.1)
    assert one.read_answered(OURS, OURS.encode(), [], 1.2) == []
    assert one.wanted(5, 1.3) == one.unwanted(1.4) == one.due(99.0) == []
    assert one.due_at() == NEVER


@pytest.mark.parametrize("current", [b"2:a:run.2", b"1:a:another.1", b"nonsense", b""])
def test_only_a_namesake_that_took_it_later_ends_it(current: bytes) -> None:
    one = lost(current)
    assert one.state is ShardState.LOST
