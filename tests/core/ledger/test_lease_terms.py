"""The moments of a lease, and how they fit together."""

from __future__ import annotations

import pytest

from penstock._core.ledger.lease_terms import LeaseTerms

LEASES = [0.001, 0.3, 1.0, 60.0, 86400.0]


def test_a_minute_s_lease() -> None:
    terms = LeaseTerms(60.0)
    assert terms.look_every == 10.0
    assert terms.renew_after == 20.0
    assert terms.longest_read == 20.0
    assert terms.replace_silent_after == 20.0
    assert terms.delivery_slack == 30.0
    assert terms.ask_first_after == 40.0
    assert terms.stop_reading_after == 40.0


@pytest.mark.parametrize("lease", LEASES)
def test_a_lease_is_renewed_before_the_server_has_to_be_asked(lease: float) -> None:
    """Even if the search that finds it is a whole interval late."""
    terms = LeaseTerms(lease)
    latest = terms.renew_after + terms.look_every
    assert latest < terms.ask_first_after < terms.seconds


@pytest.mark.parametrize("lease", LEASES)
def test_another_connection_can_renew_in_time(lease: float) -> None:
    terms = LeaseTerms(lease)
    latest = terms.renew_after + terms.replace_silent_after + terms.look_every
    assert latest < terms.seconds


@pytest.mark.parametrize("lease", LEASES)
def test_reading_stops_only_after_another_connection_was_tried(lease: float) -> None:
    terms = LeaseTerms(lease)
    assert terms.replace_silent_after < terms.stop_reading_after < terms.seconds


@pytest.mark.parametrize("lease", LEASES)
def test_a_read_never_waits_until_the_entries_that_it_brings_look_late(
    lease: float,
) -> None:
    terms = LeaseTerms(lease)
    assert terms.longest_read < terms.delivery_slack < terms.ask_first_after
