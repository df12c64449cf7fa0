"""Dead letters in the console: shown escaped, redriven and purged as announced."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock import Event
from penstock.cli.dead.report import CountRow, LetterRow
from support.console import console, hidden_fields
from support.dead_letters import bodies, write_dead_letter
from support.waiting import record_shards


async def write(redis: Any, stream: str) -> list[str]:
    """Write three letters with a ValueError and two with a Timeout."""
    await redis.xadd(stream, {"msg": "x"})
    ids = [await write_dead_letter(redis, stream, error="ValueError") for _ in "123"]
    ids += [await write_dead_letter(redis, stream, error="Timeout") for _ in "12"]
    return list(map(str, ids))


async def test_letters_are_counted_and_chosen_by_the_address(
    redis: Any, url: str, stream: str
) -> None:
    ids = await write(redis, stream)
    dead = f"/streams/{stream}/dead"
    async with console(url, stream) as browser:
        page = await browser.page(dead)
        assert f"<h1>5 dead letters of {stream}</h1>" in page
        some = await browser.page(f"{dead}?error=Timeout")
        assert "2 dead letters" in some
        assert "match the filter" in some
        assert ids[0] not in some
        assert ids[4] in some
        before = await browser.page(f"{dead}?before={ids[1]}")
        assert "1 dead letter of" in before
        assert "could be a date" in await browser.page(f"{dead}?before=2026", 400)
        api = await browser.get(f"/api{dead}?error=Timeout")
        letters = msgspec.json.decode(api.content, type=list[LetterRow])
        assert [letter.id for letter in letters] == ids[3:]
        api = await browser.get(f"/api{dead}/summary")
        counts = msgspec.json.decode(api.content, type=list[CountRow])
        assert [count.letters for count in counts] == [3, 2]


async def test_a_letter_is_shown_without_its_payload_and_escaped(
    redis: Any, url: str, stream: str
) -> None:
    reason = "<script>alert(1)</script> \x1b[2J \u202e"
    id_ = await write_dead_letter(
        redis, stream, b"the-canary", reason=reason, traceback=reason
    )
    async with console(url, stream) as browser:
        path = f"/streams/{stream}/dead/letters/{id_}"
        for query in ("", "?payload=yes"):
            answer = await browser.get(path + query)
            assert answer.status_code == 200
            assert "<script>alert" not in answer.text
            assert "&lt;script&gt;" in answer.text
            assert "\x1b" not in answer.text
            assert "\u202e" not in answer.text
            assert "the-canary" not in answer.text
        await browser.page(f"/streams/{stream}/dead/letters/1772366400250-0", 404)


async def test_a_payload_is_shown_on_demand_and_that_is_reported(
    redis: Any, url: str, stream: str
) -> None:
    id_ = await write_dead_letter(redis, stream, b"<b>the-canary</b>\x1b")
    events: list[Event] = []
    async with console(url, stream, show_payloads=True, events=events) as browser:
        path = f"/streams/{stream}/dead/letters/{id_}"
        assert "the-canary" not in await browser.page(path)
        assert not events
        answer = await browser.get(f"{path}?payload=yes")
    assert "&lt;b&gt;the-canary&lt;/b&gt;\\x1b" in answer.text
    [event] = events
    assert event.name == "console_action"
    assert event.facts == {
        "address": "192.0.2.7",
        "action": "show_payload",
        "stream": stream,
        "filter": f"id={id_}",
        "count": 1,
    }


async def test_without_allow_writes_there_is_nothing_to_change_letters(
    redis: Any, url: str, stream: str
) -> None:
    await write(redis, stream)
    dead = f"/streams/{stream}/dead"
    async with console(url, stream) as browser:
        page = await browser.page(dead)
        assert "<button>Redrive" not in page
        assert "read-only" in page
        for verb in ("redrive", "purge"):
            assert (await browser.get(f"{dead}/{verb}")).status_code == 404
            assert (await browser.submit(f"{dead}/{verb}", {})).status_code == 404
    assert await redis.xlen(f"{stream}.dead") == 5


@pytest.mark.parametrize("verb", ["redrive", "purge"])
@pytest.mark.parametrize(
    "chosen", [("", 5), ("?error=Timeout", 2), ("?group=billing", 5)], ids=str
)
async def test_page_button_and_result_have_one_number(
    redis: Any, url: str, stream: str, verb: str, chosen: tuple[str, int]
) -> None:
    query, number = chosen
    await write(redis, stream)
    events: list[Event] = []
    path = f"/streams/{stream}/dead/{verb}"
    async with console(url, stream, allow_writes=True, events=events) as browser:
        page = await browser.page(path + query)
        assert f"{number} letters up to " in page
        assert f">{verb.capitalize()} {number} letters</button>" in page
        # Letters that come later are left where they are.
        late = await write_dead_letter(redis, stream, error="Timeout")
        answer = await browser.submit(path, hidden_fields(page))
        assert answer.status_code == 200
        assert f"<h1>{number} of {number} letters " in answer.text
        # To send the form again does nothing.
        again = await browser.submit(path, hidden_fields(page))
        assert f"<h1>0 of {number} letters " in again.text
    left = [id_.decode() for id_, _ in await redis.xrange(f"{stream}.dead")]
    assert len(left) == 6 - number
    assert str(late) in left
    moved = number if verb == "redrive" else 0
    assert len(await bodies(redis, stream)) == 1 + moved
    assert [(e.name, e.facts["action"], e.facts["count"]) for e in events] == [
        ("console_action", verb, number),
        ("console_action", verb, 0),
    ]


async def test_selected_letters_take_the_same_path(
    redis: Any, url: str, stream: str
) -> None:
    ids = await write(redis, stream)
    path = f"/streams/{stream}/dead/redrive"
    async with console(url, stream, allow_writes=True) as browser:
        page = await browser.page(f"{path}?id={ids[0]}&id={ids[4]}")
        assert "<h1>Send back 2 letters?</h1>" in page
        answer = await browser.submit(path, hidden_fields(page))
        assert "<h1>2 of 2 letters went back" in answer.text
        one = await browser.page(f"{path}?id={ids[1]}")
        assert "<h1>Send back 1 letter?</h1>" in one
        gone = await browser.page(f"{path}?id={ids[0]}")
        assert "No letter is selected" in gone
    left = [id_.decode() for id_, _ in await redis.xrange(f"{stream}.dead")]
    assert left == ids[1:4]


async def test_refused_letters_are_counted_and_stay(
    redis: Any, url: str, stream: str
) -> None:
    await record_shards(redis, stream, 3)
    await write_dead_letter(redis, stream, number=1)
    # It claims to come from a shard that the stream does not have.
    await write_dead_letter(redis, stream, number=7)
    path = f"/streams/{stream}/dead/redrive"
    async with console(url, stream, allow_writes=True) as browser:
        answer = await browser.submit(path, hidden_fields(await browser.page(path)))
    assert "<h1>1 of 2 letters went back" in answer.text
    assert "<dt>Refused</dt><dd>1</dd>" in answer.text
    assert "<dt>Left</dt><dd>1</dd>" in answer.text


@pytest.mark.parametrize("spoilt", ["csrf", "through", "session", "origin"])
async def test_a_forged_form_changes_nothing(
    redis: Any, url: str, stream: str, spoilt: str
) -> None:
    await write(redis, stream)
    path = f"/streams/{stream}/dead/purge"
    async with console(url, stream, allow_writes=True) as browser:
        form = hidden_fields(await browser.page(path))
        headers = {"origin": "http://evil.example"} if spoilt == "origin" else {}
        if spoilt == "session":
            browser.cookies.clear()
        form.pop(spoilt, None)
        answer = await browser.submit(path, form, **headers)
        assert answer.status_code in {400, 401, 403}
    assert await redis.xlen(f"{stream}.dead") == 5
