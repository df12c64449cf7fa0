"""Errors: their classes, attributes and sentences."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import pytest

from penstock import errors
from penstock.errors import (
    AccessError,
    BufferFull,
    ClosedError,
    CommandError,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DecodeError,
    GaveUp,
    MessageTooLarge,
    NameInUse,
    NotDurable,
    PenstockError,
    SendFailed,
    SendUnknown,
    ServerError,
    ShardsDiffer,
    StreamMissing,
    TransactionBroken,
    TransactionFailed,
    UsageError,
)

CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if inspect.isclass(kind) and kind.__module__ == errors.__name__
}

EXAMPLES: list[tuple[PenstockError, str]] = [
    (ConfigurationError("group=1 is wrong; pass a string"), "pass a string"),
    (MessageTooLarge(1001, 1000), "send less"),
    (
        ShardsDiffer(
            "orders",
            number=8,
            sharder="KeyHash",
            recorded_number=4,
            recorded_sharder="",
        ),
        "use what is recorded, or grow it",
    ),
    (ClosedError("producer"), "create a new one"),
    (NameInUse("billing", "billing-3"), "a name of its own"),
    (BufferFull(5, 700), "await enqueue"),
    (ConnectError("host:1", "refused"), "check that a server listens"),
    (ConnectionLost("host:1", "reset"), "reconnects by itself"),
    (AccessError("host:1", "NOPERM"), "check user and password"),
    (CommandError("XADD", "OOM", "OOM no memory", "free some"), "free some"),
    (SendFailed("orders", "OOM", "no memory"), "send it again"),
    (StreamMissing("orders"), "send to it first"),
    (SendUnknown("orders", "reset"), "check the stream"),
    (NotDurable(None, "orders", "1-1", wanted=2, achieved=1), "allow more time"),
    (
        NotDurable(None, "orders", "1-1", wanted=3, achieved=0, durable=False),
        "or allow more time",
    ),
    (TransactionFailed("orders", "1-1", "OOM", "OOM", "free some"), "free some"),
    (
        TransactionBroken(
            "orders", "1-1", applied=1, total=2, code="ERR", reason="overflow"
        ),
        "before you redrive its dead letter",
    ),
    (DecodeError("orders", "1-1", "no field"), "check the payload type"),
    (GaveUp("orders", "1-1", 5, "ValueError"), "acknowledge it"),
]


def printed_tree() -> Iterator[tuple[str, str]]:
    """Yield pairs of child and parent from the module's docstring."""
    assert errors.__doc__ is not None
    drawing = errors.__doc__.split("```")[1]
    above: list[str] = []
    for line in filter(None, drawing.splitlines()):
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found is not None, line
        depth = len(found[1]) // 4
        if depth:
            yield found[2], above[depth - 1]
        else:
            assert found[2] == "PenstockError"
        above[depth:] = [found[2]]


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    printed = dict(printed_tree())
    real = {
        name: next(base.__name__ for base in kind.__bases__)
        for name, kind in CLASSES.items()
        if kind is not PenstockError
    }
    assert printed == real


def test_every_error_is_public_and_nothing_else_is() -> None:
    assert sorted(CLASSES) == sorted(errors.__all__)
    assert list(errors.__all__) == sorted(errors.__all__)


def test_every_error_has_a_docstring() -> None:
    for name, kind in CLASSES.items():
        assert kind.__doc__, name


def test_every_error_with_facts_has_an_example() -> None:
    shown = {type(error) for error, _ in EXAMPLES}
    assert shown == set(CLASSES.values()) - {PenstockError, UsageError, ServerError}


@pytest.mark.parametrize(
    ("error", "advice"), EXAMPLES, ids=lambda value: type(value).__name__
)
def test_a_sentence_ends_in_advice(error: PenstockError, advice: str) -> None:
    sentence = str(error)
    assert re.search(rf"; [^;]*{re.escape(advice)}|: {re.escape(advice)}", sentence)
    assert sentence[0].islower() or sentence.partition(" ")[0].isupper()
    assert not sentence.endswith(".")
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("error", "_advice"), EXAMPLES, ids=lambda value: type(value).__name__
)
def test_an_error_has_the_attributes_that_its_docstring_lists(
    error: PenstockError, _advice: str
) -> None:
    listed = re.findall(
        r"^    (\w+): ", inspect.getdoc(type(error)) or "", re.MULTILINE
    )
    # A subclass has the attributes of its parent besides its own.
    assert set(listed) <= set(vars(error))
    if type(error) is not StreamMissing:
        assert set(listed) == set(vars(error))
    for fact in listed:
        # The message expresses these in other words.
        if fact not in {"code", "receipt", "durable"}:
            assert str(getattr(error, fact)) in str(error)


def test_errors_of_the_user_and_of_the_server_are_distinguished() -> None:
    for error, _ in EXAMPLES:
        blamed = isinstance(error, UsageError) + isinstance(error, ServerError)
        # `GaveUp` belongs to neither: the user has chosen to stop.
        assert blamed == (not isinstance(error, GaveUp))


def test_wrong_options_and_wrong_payloads_are_value_errors_too() -> None:
    assert {name for name, kind in CLASSES.items() if issubclass(kind, ValueError)} == {
        "ConfigurationError",
        "DecodeError",
        "MessageTooLarge",
        "ShardsDiffer",
    }


def test_a_refused_command_without_a_hint_has_default_advice() -> None:
    error = CommandError("XADD", "OOM", "OOM no memory")
    assert str(error) == (
        "XADD was refused: OOM no memory; check the stream, and what this user may do"
    )


def test_a_missing_stream_is_a_refused_command() -> None:
    error = StreamMissing("orders")
    assert (error.command, error.code) == ("XGROUP CREATE", "ERR")
    assert error.reason == "stream 'orders' does not exist"
    assert str(error) == (
        "XGROUP CREATE was refused: stream 'orders' does not exist; "
        "send to it first, or leave mkstream=True"
    )


def test_the_name_of_a_stream_is_escaped_in_sentences() -> None:
    hostile = "a\r\n\x1b[31m"
    for error in (
        SendFailed(hostile, "OOM", "x"),
        SendUnknown(hostile, "x"),
        StreamMissing(hostile),
        DecodeError(hostile, "1-1", "x"),
        GaveUp(hostile, "1-1", 1, "x"),
        TransactionFailed(hostile, "1-1", "x", "x", "x"),
        TransactionBroken(hostile, "1-1", applied=1, total=2, code="x", reason="x"),
    ):
        assert str(error).isprintable()
