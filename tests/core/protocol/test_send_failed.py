"""The error of an XADD that was refused."""

from __future__ import annotations

import pytest

from penstock._core.protocol.replies import ErrorReply, send_failed


@pytest.mark.parametrize(
    ("reply", "code", "hint"),
    [
        (
            (
                "ERR The ID specified in XADD is equal or smaller than the target "
                "stream top item"
            ),
            "ID",
            "above the stream's last one",
        ),
        (
            "ERR Invalid stream ID specified as stream command argument",
            "ID",
            "Redis 7",
        ),
        (
            (
                "ERR The stream has exhausted the last possible ID, unable to add more "
                "items"
            ),
            "ID",
            "another stream",
        ),
        ("OOM command not allowed", "OOM", "once that is fixed"),
        ("WRONGTYPE Operation against a key", "WRONGTYPE", "once that is fixed"),
    ],
)
def test_the_error_says_what_to_do(reply: str, code: str, hint: str) -> None:
    error = send_failed("orders", ErrorReply(reply))
    assert (error.stream, error.code, error.reason) == ("orders", code, reply)
    assert hint in str(error)
