"""Sends: each outcome has a number from the start."""

from __future__ import annotations

from penstock._core.metrics.sends import SEND_OUTCOMES, SendTotals


def test_all_outcomes_begin_with_none() -> None:
    assert SendTotals().outcomes == dict.fromkeys(SEND_OUTCOMES, 0)
