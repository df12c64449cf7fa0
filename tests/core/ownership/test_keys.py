"""Names of the keys of owned shards, and their numbers in a target."""

from __future__ import annotations

from penstock._core.messages.shard_keys import numbered, single
from penstock._core.ownership.keys import OWN_KEY, target_number


def test_the_key_of_the_stream_s_own_name_has_a_number_that_no_shard_has() -> None:
    assert target_number(single("orders")) == OWN_KEY
    assert [target_number(numbered("orders", n)) for n in (0, 1)] == [0, 1]
