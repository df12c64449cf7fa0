"""What counts as progress once all faults are over."""

from __future__ import annotations

from faults.history import History, Note, Start
from simulation.draining import Attempts


def _start(id_: str, attempt: int) -> Start:
    return Start(
        1.0,
        "c",
        group="g",
        shard=0,
        id=id_,
        attempt=attempt,
        message="m",
        key="k",
        digest="",
    )


def test_only_attempts_that_were_not_made_before_are_progress() -> None:
    history: History = [_start("1-0", 1)]
    attempts = Attempts(history)
    assert not attempts.are_new()
    history += [_start("1-0", 2), Note(1.0, "c", text="killed")]
    assert attempts.are_new()
    history += [_start("1-0", 1), _start("1-0", 2)]
    assert not attempts.are_new()
    history.append(_start("2-0", 1))
    assert attempts.are_new()
