"""Idempotence: runs of messages that may be written again."""

from __future__ import annotations

import pytest

from penstock._core.messages import shard_keys
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.replies import ErrorReply
from penstock._core.sending import idempotence
from penstock._core.sending.accumulator import Accumulator
from penstock._core.sending.idempotence import LIFE, IdempotentRuns
from penstock._core.sending.requests import SendBatch, SendRequest
from penstock.message import Shard

SHARDS = [Shard("orders", n, b"orders:%d" % n) for n in range(3)]
LOADING = ErrorReply("LOADING the dataset in memory")


def request(number: int, shard: int = 0, size: int = 10) -> SendRequest[int]:
    fields = (b"msg", b"%d" % number)
    command = commands.xadd(SHARDS[shard].key, fields)
    return SendRequest(SHARDS[shard], command, size, number)


def batch(*shards: int) -> SendBatch[int]:
    return SendBatch([request(number, shard) for number, shard in enumerate(shards)])


def facts(command: Command) -> tuple[object, ...]:
    """Return key, note, number, life and low, and the words of the entries."""
    name, _, keys, *rest = command
    assert (name, keys) == (b"EVAL", 2)
    return tuple(rest)


def test_messages_of_one_shard_are_one_command_in_their_order() -> None:
    numbered = IdempotentRuns(b"me")
    first, second = numbered.commands(batch(0, 1, 0))
    life = int(LIFE * 1000)
    words = (3, b"*", b"msg", b"0", 3, b"*", b"msg", b"2")
    note = b"{orders:0}.sent.me"
    assert facts(first) == (b"orders:0", note, 1, life, 1, *words)
    note, one = b"{orders:1}.sent.me", (3, b"*", b"msg", b"1")
    assert facts(second) == (b"orders:1", note, 2, life, 1, *one)
    # The next write continues the numbers.
    [third] = numbered.commands(batch(0))
    assert facts(third)[2] == 3


def test_a_run_keeps_its_number_and_its_messages_when_it_is_written_again() -> None:
    numbered = IdempotentRuns(b"me")
    one, other = batch(0, 1), batch(0)
    before = numbered.commands(one)
    numbered.commands(other, written=[one])
    assert numbered.commands(one, written=[one]) == before


def test_the_lowest_number_that_may_be_repeated_is_that_of_the_oldest_open_run() -> (
    None
):
    numbered = IdempotentRuns(b"me")
    accumulator = Accumulator[int](100, 10_000)
    lows = []
    for _ in range(3):
        accumulator.add(request(0))
        [command] = numbered.commands(accumulator.batch(1), accumulator.written())
        lows.append(facts(command)[4])
    accumulator.answered()
    accumulator.add(request(0))
    [command] = numbered.commands(accumulator.batch(1), accumulator.written())
    assert [*lows, facts(command)[4]] == [1, 1, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([10] * 1001, [500, 500, 1]),
        ([3_000_000, 3_000_000, 1_000_000, 10], [1, 3]),
        ([9_000_000, 10], [1, 1]),
    ],
)
def test_messages_that_are_too_many_for_one_command_are_split_into_runs(
    sizes: list[int], lengths: list[int]
) -> None:
    made = SendBatch([request(0, size=size) for size in sizes])
    IdempotentRuns(b"me").commands(made)
    assert [len(run.requests) for run in made.runs] == lengths
    assert [run.number for run in made.runs] == list(range(1, len(lengths) + 1))


def test_each_message_has_its_own_outcome() -> None:
    made = batch(0, 1, 0, 2, 0)
    IdempotentRuns(b"me").commands(made)
    replies = [b"1-1\n!WRONGTYPE no stream\n3-1", b"2-1", LOADING]
    first, second, third, fourth, fifth = idempotence.outcomes(made, replies)
    assert (first, second, fifth) == (b"1-1", b"2-1", b"3-1")
    assert isinstance(third, ErrorReply)
    assert third.code == "WRONGTYPE"
    assert fourth.code == "LOADING"


def test_messages_that_are_refused_temporarily_are_kept_with_their_run() -> None:
    made = batch(0, 1, 0, 2)
    IdempotentRuns(b"me").commands(made)
    replies = [LOADING, b"!LOADING inside", ErrorReply("NOPERM no")]
    again = idempotence.refused_temporarily(made, replies)
    assert [one.ticket for one in again] == [0, 2]
    kept = idempotence.batch_to_resend(made, again)
    assert kept == again
    assert kept.runs == made.runs[:1]
    assert idempotence.refused_temporarily(made, [b"1-1\n1-2", b"1-1", b"1-1"]) == []


def test_without_runs_each_message_is_refused_individually() -> None:
    made = batch(0, 0, 0)
    again = idempotence.refused_temporarily(
        made, [b"1-1", LOADING, ErrorReply("OOM no memory")]
    )
    assert [one.ticket for one in again] == [1]
    assert idempotence.batch_to_resend(made, again).runs == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (
            "ERR Error running script (call to f_0): @user_script:8: -READONLY You can",
            "READONLY",
        ),
        ("OOM command not allowed. script: 0a1b, on @user_script:8.", "OOM"),
        ("!-OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
    ],
)
def test_the_code_of_an_error_inside_a_script_is_found_in_its_text(
    text: str, code: str
) -> None:
    made = batch(0)
    IdempotentRuns(b"me").commands(made)
    reply = text.encode() if text.startswith("!") else ErrorReply(text)
    [outcome] = idempotence.outcomes(made, [reply])
    assert outcome.code == code


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (b"orders", b"{orders}.sent"),
        (b"orders:1", b"{orders:1}.sent"),
        (b"{a}b", b"{a}b.sent"),
        (b"x{a}b{c}", b"x{a}b{c}.sent"),
        (b"x{a", b"{x{a}.sent"),
        # No name of the same slot can be made for these.
        (b"a}b", b"a}b.sent"),
        (b"{}a", b"{}a.sent"),
    ],
)
def test_a_key_beside_another_one_is_in_its_slot(key: bytes, name: bytes) -> None:
    assert shard_keys.companion(key, b"sent") == name


def send_to(runs: IdempotentRuns, *keys: int) -> SendBatch[int]:
    """Write a message to each of these keys."""
    requests = []
    for number in keys:
        shard = Shard("s", number, b"s:%d" % number)
        command = commands.xadd(shard.key, (b"msg", b"1"))
        requests.append(SendRequest(shard, command, 10, number))
    made = SendBatch(requests)
    runs.commands(made)
    return made


def test_the_notes_of_all_shards_are_deleted_on_closing() -> None:
    runs = IdempotentRuns(b"me")
    send_to(runs, 1, 2)
    assert runs.deletions() == []
    assert runs.deletions(closing=True) == [
        (b"PEXPIRE", b"{s:1}.sent.me", 0),
        (b"PEXPIRE", b"{s:2}.sent.me", 0),
    ]
    assert runs.deletions(closing=True) == []


def test_notes_expire_later_if_a_late_copy_of_a_write_may_exist() -> None:
    runs = IdempotentRuns(b"me")
    runs.commands(send_to(runs, 1))
    assert runs.deletions(closing=True) == [(b"PEXPIRE", b"{s:1}.sent.me", 3_600_000)]


def test_the_notes_of_the_shards_that_were_used_last_are_kept() -> None:
    runs = IdempotentRuns(b"me")
    send_to(runs, *range(1099))
    assert runs.deletions() == []
    send_to(runs, 0, 1099)
    # Those of the first hundred go, but for shard 0, which was just used again.
    names = [command[1] for command in runs.deletions()]
    assert names == [b"{s:%d}.sent.me" % n for n in range(1, 101)]
    assert len(runs.deletions(closing=True)) == 1000


def test_notes_of_runs_without_an_outcome_are_kept_however_many_they_are() -> None:
    runs = IdempotentRuns(b"me")
    first = send_to(runs, *range(50))
    second = send_to(runs, *range(50, 2000))
    runs.commands(second, [first, second])
    assert runs.deletions() == []
    runs.commands(second, [second])
    assert len(runs.deletions()) == 50
