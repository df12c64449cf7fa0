"""Members that own shards: what disturbs them, and what the oracle says of it."""

from __future__ import annotations

from typing import Any, Final

from faults.history import End, Excuse, Start
from simulation.explore import carry_out
from simulation.owned_handover import HandOver
from simulation.plan import (
    ConsumerPlan,
    FaultPlan,
    OperatorPlan,
    Plan,
    ProducerPlan,
    StepPlan,
)
from simulation.run import Result

_OWNED: Final[dict[str, Any]] = {"ownership": {"lease": 2.0}}
_RUN: Final = {"concurrency": 2, "ordering": "key"}


def _members(number: int, **facts: Any) -> tuple[ConsumerPlan, ...]:
    return tuple(
        ConsumerPlan(f"member{n}", "owned", options=_OWNED, run=_RUN, **facts)
        for n in range(number)
    )


def _carried_out(**facts: Any) -> Result:
    producer = ProducerPlan("p", count=60, options={"shards": 3})
    plan = Plan(1, shards=3, seconds=5.0, producers=(producer,), **facts)
    result = carry_out(plan)
    assert not result.kinds, str(result)
    return result


def _notes(result: Result, word: str) -> int:
    return sum(f" note {word} " in f"{line} " for line in result.world.timeline)


def test_shards_that_are_moved_are_revoked_and_those_taken_away_are_lost() -> None:
    steps = {what: StepPlan(2.0, what, 10_001) for what in ("move", "take_away")}
    found = {
        what: _carried_out(
            consumers=_members(2), operators=(OperatorPlan("admin", (step,)),)
        )
        for what, step in steps.items()
    }
    ends = {what: _notes(result, "revoked") for what, result in found.items()}
    assert ends["move"] > ends["take_away"]
    assert not _notes(found["move"], "lost")
    assert _notes(found["take_away"], "lost") == 1


def test_shards_that_were_refused_are_assigned_after_a_lease() -> None:
    result = _carried_out(consumers=_members(1, refuses=True))
    assert _notes(result, "refused")
    assert _notes(result, "assigned")


def test_a_program_with_a_router_goes_on_after_scripts_were_forbidden() -> None:
    result = _carried_out(
        consumers=_members(1, style="router", at=1.0),
        faults=(FaultPlan(0.8, "no_scripts"),),
    )
    assert _notes(result, "no access")


def _start(id_: str, epoch: int = 1) -> Start:
    facts: dict[str, Any] = {"message": "m", "key": "k", "digest": "", "attempt": 1}
    place: dict[str, Any] = {"group": "g", "shard": 0, "id": id_, "epoch": epoch}
    return Start(1.0, "m.1", **place, **facts)


def _end(id_: str, *, ok: bool = True) -> End:
    return End(2.0, "m.1", group="g", shard=0, id=id_, epoch=1, ok=ok, lost=False)


def test_a_shard_is_not_handed_over_while_it_is_handled_or_not_acknowledged() -> None:
    known, place = HandOver(), (0, "g")
    known.started(_start("1-0"))
    known.started(_start("9-0", epoch=7))
    assert [*known.open("m.1", place, 1, set())] == ["1-0 is being handled"]
    known.ended(_end("1-0"))
    assert not [*known.open("m.1", place, 1, set())]
    [left] = known.open("m.1", place, 1, {"1-0"})
    assert left.startswith("1-0 is handled")
    known.ended(_end("1-0", ok=False))
    assert not [*known.open("m.1", place, 1, {"1-0"})]


def test_handlers_that_take_longer_than_they_may_are_not_waited_for() -> None:
    known = HandOver()
    known.started(_start("1-0"))
    known.noted(
        "m.1",
        "event drain_incomplete stream='orders' shard=0 group='g' epoch=1 messages=1",
    )
    assert not [*known.open("m.1", (0, "g"), 1, {"1-0"})]


def test_an_acknowledgement_that_a_fault_has_undone_is_not_asked_for() -> None:
    hand_over, place = HandOver(), (0, "g")
    for id_ in ("1-0", "2-0"):
        hand_over.ended(End(1.0, "a", "g", 0, id_, ok=True, epoch=3))
    pending = {"1-0", "2-0"}
    assert len(list(hand_over.open("a", place, 3, pending))) == 2
    hand_over.excused(Excuse(2.0, "", 1.5, ["ack"], ["0 1-0"], group="other"))
    assert len(list(hand_over.open("a", place, 3, pending))) == 2
    hand_over.excused(Excuse(2.0, "", 1.5, ["ack"], ["0 1-0", "1 2-0"]))
    [left] = hand_over.open("a", place, 3, pending)
    assert left.startswith("2-0")
    hand_over.excused(Excuse(2.0, "", 1.5, ["ack"]))
    assert not list(hand_over.open("a", place, 3, pending))


def test_an_acknowledgement_that_was_reported_as_dropped_is_not_asked_for() -> None:
    hand_over, place = HandOver(), (0, "g")
    hand_over.ended(End(1.0, "a", "g", 0, "1-0", ok=True, epoch=3))
    hand_over.noted("b", "event commit_dropped stream='s' group='g' lost=1 reply=x")
    assert len(list(hand_over.open("a", place, 3, {"1-0"}))) == 1
    hand_over.noted("a", "event commit_dropped stream='s' group='g' lost=1 reply=x")
    assert not list(hand_over.open("a", place, 3, {"1-0"}))
