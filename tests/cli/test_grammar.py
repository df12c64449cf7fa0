"""One grammar: every option of every command refuses what has no unit, zone or name.

The commands and their options are taken from the application itself, so that a new one
is tested as well.
"""

from __future__ import annotations

import inspect
import re
import socket
from collections.abc import Iterator
from pkgutil import resolve_name
from typing import Any, NamedTuple, get_args

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.models import OptionInfo
from typer.testing import CliRunner

from penstock import ConfigurationError
from penstock.cli._options import Parser
from penstock.cli._values import is_pattern, stream_name
from penstock.cli.app import Commands, app

# Values of the arguments and options that a command can't do without.
VALID = {"STREAM": "orders", "GROUP": "g", "ID": "1772366400250-0", "POSITION": "7d"}
# Options that take a text of any kind, and why it needs no grammar.
TEXTS = {
    "allowed_host": "a name",
    "consumer": "a name",
    "error": "a type's name",
    "field": "a field's name",
    "from_": "for claim: a consumer's name",
    "group": "a name",
    "group_option": "a name",
    "header": "a name and a text",
    "host": "an address",
    "input": "a path",
    "key": "any text",
    "kind": "a kind of object",
    "patterns": "names and patterns",
    "payload": "any bytes",
    "queue": "a list's name",
    "reason": "any text",
    "root_path": "a path",
    "stream": "for lag: a name or pattern",
    "streams": "names and patterns",
    "target": "a module",
    "token_file": "a path",
    "to": "for owners: a member's name",
    "to_url": "a URL",
    "url": "a URL",
}


class Option(NamedTuple):
    """An option or argument of a command.

    Attributes:
        command: The words of the command.
        name: How refusals name it.
        words: How it is passed; its value follows.
        before: The arguments that have to stand before it.
        kind: The kind of value: DURATION, ID, POSITION or STREAM.
    """

    command: tuple[str, ...]
    name: str
    words: tuple[str, ...]
    before: tuple[str, ...]
    kind: str

    def call(self, value: str) -> list[str]:
        return [*self.command, *self.before, *self.words, value]


class Parameter(NamedTuple):
    """A parameter of a command.

    Attributes:
        name: The name in the function.
        flags: The names of an option; none for an argument.
        parser: What reads its value; None for typer's own kinds.
        metavar: The kind of value in the help text.
        required: Whether the command can't do without it.
        is_text: Whether its value is a text.
    """

    name: str
    flags: tuple[str, ...]
    parser: Parser[Any] | None
    metavar: str
    required: bool
    is_text: bool


def commands() -> Iterator[tuple[tuple[str, ...], list[Parameter]]]:
    """Yield each command: its words and its parameters."""
    for name, place in Commands.places.items():
        found = resolve_name(place)
        if not isinstance(found, typer.Typer):
            yield (name,), list(parameters(found))
            continue
        for info in found.registered_commands:
            assert info.callback is not None
            word = info.name or info.callback.__name__
            yield (name, word), list(parameters(info.callback))


def parameters(function: Any) -> Iterator[Parameter]:
    for name, each in inspect.signature(function, eval_str=True).parameters.items():
        kind, info = get_args(each.annotation)[:2]
        is_option = isinstance(info, OptionInfo)
        default = (f"--{name.replace('_', '-')}",) if is_option else ()
        # In an annotation, typer takes the first name for a default.
        names = map(str, (info.default, *(info.param_decls or ())))
        flags = tuple(one for one in names if is_option and one.startswith("--"))
        yield Parameter(
            name,
            flags or default,
            info.parser if isinstance(info.parser, Parser) else None,
            info.metavar or "",
            required=each.default is inspect.Parameter.empty,
            is_text="str" in str(kind),
        )


COMMANDS = list(commands())


def options() -> Iterator[Option]:
    for words, params in COMMANDS:
        required = [p for p in params if not p.flags and p.required]
        values = [VALID.get(p.metavar, "app") for p in required]
        for param in params:
            if param.parser is not None:
                where = values if param.flags else values[: required.index(param)]
                kind, name = param.parser.kind, param.parser.name
                yield Option(words, name, param.flags[:1], tuple(where), kind)


OPTIONS = list(options())


def of_kind(*kinds: str) -> list[Any]:
    return [
        pytest.param(option, id=" ".join((*option.command, option.name)))
        for option in OPTIONS
        if option.kind in kinds
    ]


def refused(option: Option, value: str) -> str:
    """Call the command; return the one sentence with which it refuses the value."""
    result = CliRunner().invoke(
        app, option.call(value), env={"REDIS_URL": "redis://127.0.0.1:1"}
    )
    assert result.exit_code == 2, (option, value, result.output)
    assert result.stdout == ""
    [sentence] = result.stderr.splitlines()
    assert sentence.startswith(f"penstock: {option.name} ")
    return sentence


FEW = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("option", of_kind("DURATION"))
@FEW
@given(number=st.integers(1, 10**6) | st.sampled_from([0.5, 7, 30, 900]))
def test_a_duration_without_a_unit_is_answered_with_what_to_write(
    option: Option, number: float
) -> None:
    sentence = refused(option, str(number))
    assert f"{number} has no unit; write {number}s, {number}m, {number}h or" in sentence


@pytest.mark.parametrize("option", of_kind("DURATION"))
@pytest.mark.parametrize("text", ["seven", "7 days", "1h30", "-1s", "7y", ""])
def test_what_is_no_duration_is_answered_with_examples(
    option: Option, text: str
) -> None:
    sentence = refused(option, text)
    assert "write one like 250ms, 30s, 1h30m or 7d" in sentence


@pytest.mark.parametrize("option", of_kind("ID", "POSITION"))
@FEW
@given(
    text=st.dates().map(lambda day: day.strftime("%Y%m%d"))
    | st.integers(0, 10**10 - 1).map(str)
)
def test_a_short_id_may_be_a_date_and_is_refused(option: Option, text: str) -> None:
    sentence = refused(option, text)
    assert "could be a date or an id" in sentence
    assert "2026-03-01T12:00Z" in sentence
    assert "1772366400250-0" in sentence


@pytest.mark.parametrize("option", of_kind("POSITION"))
@FEW
@given(moment=st.datetimes())
def test_a_time_without_a_zone_is_answered_with_the_same_text_and_z(
    option: Option, moment: Any
) -> None:
    text = moment.isoformat()
    sentence = refused(option, text)
    assert f"{text} has no time zone; write {text}Z" in sentence


@pytest.mark.parametrize("option", of_kind("STREAM"))
@pytest.mark.parametrize("text", ["orders*", "order?", "[ab]", "*", "a[*]b*"])
def test_a_pattern_where_one_stream_is_needed_is_refused(
    option: Option, text: str
) -> None:
    sentence = refused(option, text)
    assert "is a pattern" in sentence
    assert "write its name, like orders" in sentence


@pytest.mark.parametrize("option", of_kind("STREAM"))
def test_an_empty_name_is_no_stream(option: Option) -> None:
    assert "is empty; write the name of a stream" in refused(option, "")


def test_there_are_options_of_every_kind() -> None:
    """Otherwise these tests would test nothing."""
    kinds = {option.kind for option in OPTIONS}
    assert kinds == {"DURATION", "ID", "POSITION", "STREAM"}
    durations = {(*o.command, o.name) for o in OPTIONS if o.kind == "DURATION"}
    assert durations >= {
        ("run", "--grace"),
        ("trim", "--max-age"),
        ("trim", "--ignore-idle"),
        ("trim", "--timeout"),
        ("pending", "--idle"),
        ("lag", "--max-age"),
        ("lag", "--watch"),
        ("top", "--interval"),
    }


EACH = pytest.mark.parametrize(
    ("words", "params"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS]
)


@EACH
def test_an_option_that_takes_a_text_without_a_grammar_is_meant_to(
    words: tuple[str, ...], params: list[Parameter]
) -> None:
    for param in params:
        if param.parser is None and param.is_text:
            assert param.name in TEXTS, f"{words} {param.name}: which grammar has it?"


@EACH
def test_every_command_that_talks_to_a_server_has_the_common_options(
    words: tuple[str, ...], params: list[Parameter]
) -> None:
    flags = {flag for param in params for flag in param.flags}
    common = {"--url", "--json", "--timeout", "--no-color"}
    assert words in {("run",), ("relay",), ("schema",)} or common <= flags


@pytest.mark.parametrize("words", [words for words, _ in COMMANDS], ids=" ".join)
def test_a_help_text_fits_the_screen(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@given(st.text(min_size=1))
def test_a_name_with_the_characters_of_patterns_can_be_written(name: str) -> None:
    literal = re.sub(r"([*?\[])", r"[\1]", name)
    assert not is_pattern(literal)
    assert stream_name(literal, "STREAM") == name
    if is_pattern(name):
        with pytest.raises(ConfigurationError, match="is a pattern"):
            stream_name(name, "STREAM")


# -- the server ------------------------------------------------------------------------


def streams(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    for name in ("PENSTOCK_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner().invoke(app, ["streams"], env=dict(variables))


def test_the_server_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    file = tmp_path / "url"
    file.write_text("redis://:secret@127.0.0.1:3\n")
    near = {"REDIS_URL": "redis://127.0.0.1:1"}
    for variables, port in (
        (near, 1),
        ({"PENSTOCK_URL": "redis://127.0.0.1:2", **near}, 2),
        ({"PENSTOCK_URL_FILE": str(file), **near}, 3),
        ({"REDIS_URL_FILE": str(file)}, 3),
    ):
        result = streams(monkeypatch, **variables)
        assert result.exit_code == 1
        assert f"can't connect to 127.0.0.1:{port}" in result.stderr
        assert "secret" not in result.output


def test_a_server_that_is_not_named_or_named_twice_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for variables, words in (
        ({}, "pass --url redis://host:6379, or set PENSTOCK_URL"),
        ({"PENSTOCK_URL": "redis://a", "PENSTOCK_URL_FILE": "b"}, "leave one of them"),
        ({"REDIS_URL_FILE": str(tmp_path / "none")}, "can't be read: No such file"),
        ({"REDIS_URL_FILE": str(tmp_path / "empty")}, "is empty"),
        ({"REDIS_URL_FILE": str(tmp_path / "binary")}, "can't be read: it is no text"),
    ):
        result = streams(monkeypatch, **variables)
        assert (result.exit_code, result.stdout) == (2, "")
        assert words in result.stderr
        assert "url=" not in result.stderr


@pytest.mark.parametrize("words", [["streams"], ["trim", "s", "--acked"]])
def test_a_server_that_does_not_answer_is_waited_for_as_long_as_timeout_says(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        result = CliRunner().invoke(
            app, [*words, "--url", f"redis://127.0.0.1:{port}", "--timeout", "300ms"]
        )
    assert result.exit_code == 1
    assert "no answer within 0.3 s" in result.stderr
