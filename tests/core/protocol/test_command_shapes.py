"""The shapes of commands: right and wrong arguments, and options."""

from __future__ import annotations

import pytest

from penstock._core.protocol.command_shapes import SHAPES, Checked, is_whole
from penstock.errors import ConfigurationError


def check(call: str) -> Checked:
    name, *words = call.split(" ")
    return SHAPES[name].check([word.encode() for word in words])


@pytest.mark.parametrize(
    "call",
    [
        "HSET h f v f2 v2",
        "HDEL h f g",
        "LINSERT l before a b",
        "LPOP l",
        "LPOP l 0",
        "PFADD p",
        "PFADD p a b",
        "SETBIT k 4294967295 1",
        "ZADD z gt ch 1 m -inf n +Infinity o",
        "ZADD z 1e-5 m .5 n 5. o",
        "ZREMRANGEBYSCORE z (1 +inf",
        "ZREMRANGEBYLEX z - [b",
        "GEOADD z 180 -85 m",
        "XADD s * f v",
        "XADD s 5-* f v",
        "XADD s 0-1 f v",
        "XADD s 10 f v",
        "XADD s NOMKSTREAM MAXLEN ~ 5 LIMIT 10 * f v",
        "XADD s MINID = 5-1 18446744073709551615-0 f v",
        "XDEL s 5 5-1",
        "XTRIM s MAXLEN 0",
        "EXPIRE k -1",
        "EXPIRE k 1000000000000000 XX",
        "SET k v PX 5 NX",
        "DEL a b c",
    ],
)
def test_arguments_that_the_server_accepts_are_sure(call: str) -> None:
    assert check(call).sure


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("HSET h f v f2", "can't have 4 arguments; call it as HSET key"),
        ("HSET h", "can't have 1 arguments"),
        ("HGETALL h f", "can't have 2 arguments"),
        ("DEL", "call it as DEL"),
        ("LINSERT l BESIDE a b", "argument 2 of LINSERT must be BEFORE or AFTER"),
        ("LPOP l -1", "not negative"),
        ("EXPIRE k soon", "argument 2 of EXPIRE must be a whole number"),
        ("EXPIRE k 1000000000000001", "at most 1000000000000000"),
        ("SETEX k 0 v", "from 1 to"),
        ("SET k v EX", "can't have 3 arguments"),
        ("SET k v EX soon", "argument 4 of SET"),
        ("ZADD z abc m", "argument 2 of ZADD must be a number"),
        ("ZADD z 1e400 m", "a number"),
        ("ZADD z 1e-400 m", "a number"),
        ("ZADD z nan m", "a number"),
        ("INCRBYFLOAT k inf", "a finite number"),
        ("INCRBY k 007", "of 64 bits"),
        ("INCRBY k 9223372036854775808", "of 64 bits"),
        ("SETBIT k 1 2", "0 or 1"),
        ("ZREMRANGEBYLEX z a b", "begin with"),
        ("GEOADD z 181 0 m", "from -180 to 180"),
        ("XADD s soon f v", "an id like"),
        ("XADD s 0-0 f v", "an id like"),
        ("XADD s 5-5-* f v", "an id like"),
        ("XADD s 18446744073709551616 f v", "an id like"),
        ("XADD s * f", "can't have 3 arguments"),
        ("XADD s MAXLEN", "trims by MAXLEN"),
        ("XADD s MAXLEN -1 * f v", "trims by MAXLEN"),
        ("XADD s MAXLEN 5 LIMIT 5 * f v", "trims by MAXLEN"),
        ("XADD s MAXLEN ~ 5 LIMIT", "trims by MAXLEN"),
        ("XADD s MAXLEN ~ 5 LIMIT x * f v", "trims by MAXLEN"),
        ("XTRIM s MINID soon", "trims by MAXLEN"),
        ("XTRIM s", "can't have 1 arguments"),
        ("XDEL s -", "an id like"),
    ],
)
def test_arguments_that_the_server_would_refuse_are_refused(
    call: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check(call)


@pytest.mark.parametrize(
    "call",
    [
        "SET k v IFEQ x",
        "SET k v NX XX",
        "ZADD z NX XX",
        "ZRANGE z 0 1 BYSCORE",
        "XADD s KEEPREF MAXLEN 5 * f v",
        "XADD s MAXLEN 5 ACKED * f v",
        "XTRIM s DELREF",
        "XTRIM s MAXLEN 5 DELREF",
        "XTRIM s MAXLEN 5 LATER",
    ],
)
def test_options_that_are_not_known_are_left_to_the_server(call: str) -> None:
    assert not check(call).sure


def test_options_and_the_id_of_an_entry_are_found() -> None:
    assert check("SET k v ex 5 get").options == {b"EX", b"GET"}
    assert check("XADD s NOMKSTREAM MAXLEN 5 7-1 f v") == Checked(
        sure=True, options=frozenset((b"NOMKSTREAM", b"TRIM")), id=4
    )


def test_the_keys_of_a_command_are_its_first_arguments() -> None:
    words = [b"a", b"b", b"c"]
    assert SHAPES["HSET"].keys(words) == (b"a",)
    assert SHAPES["SMOVE"].keys(words) == (b"a", b"b")
    assert SHAPES["UNLINK"].keys(words) == (b"a", b"b", b"c")


def test_a_whole_number_is_written_as_the_server_writes_it() -> None:
    assert all(map(is_whole, (b"0", b"-1", b"9223372036854775807")))
    assert not any(map(is_whole, (b"", b"-0", b"+1", b"01", b"9223372036854775808")))
