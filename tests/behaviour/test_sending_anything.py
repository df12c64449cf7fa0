"""Any message is received as it was sent, byte for byte, or refused at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from penstock import (
    EARLIEST,
    REALTIME,
    ConfigurationError,
    Consumer,
    Producer,
    Receipt,
    json_codec,
    msgpack_codec,
)

# Any character, lone surrogates too, and those that break protocols.
NASTY = st.sampled_from(
    [
        "\0",
        "\r\n",
        "$-1\r\n",
        "*1\r\n",
        "'\"",
        "\\",
        "😀",
        "é",
        "\udc80",
        "\ud800",
        ":0",
    ]
)
TEXT = st.lists(
    NASTY | st.text(st.characters(categories=None), max_size=5), max_size=5
).map("".join)
BYTES = st.binary(max_size=50) | st.sampled_from(
    [b"\r\n", b"\xff\xfe", b"\0", b"$5\r\n"]
)

bounded = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def is_utf8(text: str) -> bool:
    """Return whether the text can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def can_be_sent(key: str | None, headers: dict[str, str]) -> bool:
    """Return whether key and headers may be sent."""
    texts = [*headers, *headers.values(), *([] if key is None else [key])]
    return all(map(is_utf8, texts)) and not {"msg", "key"} & set(headers)


@bounded
@given(
    payloads=st.lists(BYTES, min_size=1, max_size=20),
    key=st.none() | TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=4),
)
@example(payloads=[b""], key="", headers={"": ""})
@example(payloads=[b"x" * 1_000_000], key="k" * 100_000, headers={"h" * 9999: "\0"})
@example(payloads=[b"x"], key=None, headers={"msg": "x"})
@example(payloads=[b"x"], key="\ud800", headers={})
@example(payloads=[b"x"], key="\udc80\udcff", headers={"\udcfe": "\udcff"})
async def test_payloads_keys_and_headers_are_received_as_they_were_sent(
    url: str,
    stream: str,
    redis: Any,
    *,
    payloads: list[bytes],
    key: str | None,
    headers: dict[str, str],
) -> None:
    await redis.delete(stream)
    async with Producer(url) as producer:
        for payload in payloads:
            if not can_be_sent(key, headers):
                with pytest.raises(ConfigurationError):
                    await producer.enqueue(stream, payload, key=key, headers=headers)
                continue
            await producer.enqueue(stream, payload, key=key, headers=headers)
    if not can_be_sent(key, headers):
        assert not await redis.exists(stream)
        return
    async with Consumer(stream, url=url, mode=REALTIME, start=EARLIEST) as consumer:
        for payload in payloads:
            message = await consumer.next()
            assert message.payload == payload
            assert message.key == key
            assert dict(message.headers) == headers


@bounded
@given(texts=st.lists(TEXT, min_size=1, max_size=10))
async def test_text_is_received_as_it_was_sent_or_refused(
    url: str, stream: str, redis: Any, *, texts: list[str]
) -> None:
    await redis.delete(stream)
    async with Producer(url) as producer:
        outcomes = await producer.to(stream, payload=str).send_many(texts)
    for text, outcome in zip(texts, outcomes, strict=True):
        assert isinstance(outcome, Receipt if is_utf8(text) else ConfigurationError)
    bodies = [fields[b"msg"].decode() for _, fields in await redis.xrange(stream)]
    assert bodies == [text for text in texts if is_utf8(text)]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=5,
)
CODECS: list[Any] = [json_codec, msgpack_codec]
KINDS = st.sampled_from(
    ["application/json", "APPLICATION/VND.MSGPACK; a=b", "text/xml", "\r\n", ""]
)


def texts_of(value: Any) -> list[str]:
    """Return all text in a value, names too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *[text for part in value.values() for text in texts_of(part)]]
    if isinstance(value, list):
        return [text for part in value for text in texts_of(part)]
    return []


@bounded
@given(
    codec_factory=st.sampled_from(CODECS),
    payload=ANYTHING,
    key=st.none() | TEXT,
    headers=st.dictionaries(TEXT | st.just("content-type"), TEXT | KINDS, max_size=3),
)
@example(codec_factory=json_codec, payload=["x" * 1_000_000], key=None, headers={})
@example(codec_factory=json_codec, payload="\ud800", key=None, headers={})
@example(codec_factory=msgpack_codec, payload={"\udc80": 1}, key=None, headers={})
@example(
    codec_factory=json_codec, payload=1, key="k", headers={"content-type": "text/xml"}
)
async def test_what_a_codec_encodes_is_received_with_its_content_type_or_refused(
    url: str,
    stream: str,
    redis: Any,
    *,
    codec_factory: Any,
    payload: Any,
    key: str | None,
    headers: dict[str, str],
) -> None:
    await redis.delete(stream)
    codec = codec_factory(Any)
    content_type = codec.content_type
    given_type = headers.get("content-type")
    fits = can_be_sent(key, headers) and all(map(is_utf8, texts_of(payload)))
    if given_type is not None:
        fits = fits and given_type.partition(";")[0].lower() == content_type
    async with Producer(url, codec=codec) as producer:
        if not fits:
            with pytest.raises(ConfigurationError):
                await producer.send(stream, payload, key=key, headers=headers)
            assert not await redis.exists(stream)
            return
        await producer.send(stream, payload, key=key, headers=headers)
    async with Consumer(
        stream, url=url, mode=REALTIME, start=EARLIEST, codec=codec
    ) as consumer:
        message = await consumer.next()
    assert message.payload == payload
    assert message.key == key
    assert dict(message.headers) == {**headers, "content-type": content_type}


@bounded
@given(name=TEXT)
@example(name="")
@example(name="a\r\nDEL a\r\n")
@example(name="x" * 100_000)
@example(name="\udc80")
async def test_any_text_except_for_the_empty_one_can_be_a_stream_s_name(
    url: str, redis: Any, *, name: str
) -> None:
    async with Producer(url) as producer:
        if not name or not is_utf8(name):
            with pytest.raises(ConfigurationError, match="stream name"):
                await producer.send(name, b"x")
            return
        await redis.delete(name)
        receipt = await producer.send(name, b"x")
    assert receipt.stream == name
    [(id_, fields)] = await redis.xrange(name.encode())
    assert (id_, fields) == (bytes(receipt.id), {b"msg": b"x"})
    await redis.delete(name)


async def test_a_refusal_quotes_neither_payload_nor_header(
    url: str, stream: str
) -> None:
    secret = "hunter2\ud800"
    async with Producer(url) as producer:
        for message in (
            {"payload": secret},
            {"payload": b"x", "key": secret},
            {"payload": b"x", "headers": {"a": secret}},
        ):
            with pytest.raises(ConfigurationError) as caught:
                await producer.send(stream, **message)
            assert "hunter2" not in str(caught.value)
            assert caught.value.__cause__ is None


async def test_large_and_small_messages_do_not_mix(
    url: str, stream: str, redis: Any
) -> None:
    bodies = [bytes([n % 256]) * (1_000_000 if n % 7 == 0 else n) for n in range(60)]
    async with Producer(url, max_bytes=3_000_000) as producer:
        await asyncio.gather(*[producer.send(stream, body) for body in bodies])
    assert [fields[b"msg"] for _, fields in await redis.xrange(stream)] == bodies
