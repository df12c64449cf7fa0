"""Retention as arguments of XADD."""

from __future__ import annotations

from datetime import timedelta

import pytest

from penstock import KEEP_ALL, MaxAge, MaxLen, Retention
from penstock._core.protocol import commands
from penstock._core.protocol.commands import Command
from penstock._core.protocol.trimming import trim_arguments, trim_words

NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("retention", "words"),
    [
        (None, ()),
        (KEEP_ALL, ()),
        (MaxLen(5), (b"MAXLEN", b"~", 5)),
        (MaxLen(5, exact=True), (b"MAXLEN", b"=", 5)),
        (MaxAge(1.5), (b"MINID", b"~", NOW - 1500)),
        (MaxAge(timedelta(days=1), exact=True), (b"MINID", b"=", NOW - 86_400_000)),
        (MaxAge(3e9), (b"MINID", b"~", 0)),
    ],
)
def test_retention_is_translated_into_arguments_of_xadd(
    retention: Retention | None, words: Command
) -> None:
    assert trim_arguments(retention, NOW) == words
    assert trim_words(retention, NOW) == [
        word if isinstance(word, bytes) else b"%d" % int(word) for word in words
    ]


def test_an_age_is_subtracted_in_nanoseconds_where_the_ids_count_those() -> None:
    def words(retention: Retention) -> Command:
        return trim_arguments(retention, NOW, nanoseconds=True)

    assert words(MaxAge(1.5)) == (b"MINID", b"~", (NOW - 1500) * 10**6)
    assert words(MaxAge(3e9)) == (b"MINID", b"~", 0)
    assert words(MaxLen(5)) == (b"MAXLEN", b"~", 5)


def test_the_retention_arguments_precede_the_id() -> None:
    words = commands.xadd(b"s", (b"msg", b"a"), "5-*", trim_arguments(MaxLen(5), NOW))
    assert words == (b"XADD", b"s", b"MAXLEN", b"~", 5, "5-*", b"msg", b"a")
