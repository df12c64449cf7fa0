"""Tracebacks: where user code raised, and frames without texts."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock import Claim, ConfigurationError
from penstock._tracebacks import frames_of, place_of, text_of

HERE = "core/test_tracebacks.py:"


def caught(call: Callable[[], object]) -> BaseException:
    """Return what a call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("it did not raise")


def module(file: Path, name: str, text: str) -> ModuleType:
    """Return a module of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_place_is_the_innermost_frame_of_user_code() -> None:
    line = json.loads.__code__.co_firstlineno
    error = caught(lambda: json.loads("{"))  # raised in Python's own json
    place = place_of(error)
    assert place is not None
    assert place.startswith(HERE)
    assert place != f"{HERE}{line}"


def test_penstock_s_own_frames_are_not_the_place() -> None:
    """The text of its errors says what is wrong, and the place who did it."""
    error = caught(lambda: Claim(idle=-1))
    assert isinstance(error, ConfigurationError)
    place = place_of(error)
    assert place is not None
    assert place.startswith(HERE)


def test_a_library_s_frames_are_not_the_place(tmp_path: Path) -> None:
    text = "def call(inner):\n    return inner()\n"
    library = module(tmp_path / "site-packages/lib/a.py", "lib.a", text)
    own = module(tmp_path / "app/shop.py", "shop", text)
    error = caught(lambda: own.call(lambda: library.call(None)))
    assert str(place_of(error)).startswith(HERE)
    error = caught(lambda: own.call(library.call.__get__(3)))
    assert place_of(error) == "app/shop.py:2"
    # An application may be installed like a library.
    assert place_of(error, "lib.b.handle") == "lib/a.py:2"
    assert place_of(error, "library.handle") == "app/shop.py:2"


def test_code_that_was_typed_at_a_prompt_is_the_user_s() -> None:
    names: dict[str, Any] = {}
    exec(compile("def f(): 1 / 0", "<stdin>", "exec"), names)  # noqa: S102
    assert place_of(caught(names["f"])) == "<stdin>:1"


def test_a_file_is_shown_from_the_folder_that_it_is_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = module(tmp_path / "app/shop/billing.py", "shop.billing", "def f(): 1 / 0\n")
    assert place_of(caught(shop.f)) == "shop/billing.py:1"
    deep = module(tmp_path / "app/a/b/c.py", "a.b.c", "def f(): 1 / 0\n")
    assert place_of(caught(deep.f)) == "b/c.py:1"
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(tmp_path / "app"), ""])
    assert place_of(caught(deep.f)) == "a/b/c.py:1"


def test_without_a_frame_of_user_code_what_led_to_it_is_searched() -> None:
    cause = caught(lambda: 1 / 0)
    error = TimeoutError()
    assert place_of(error) is None
    error.__cause__ = OSError()
    assert place_of(error) is None
    error.__cause__.__context__ = cause
    assert str(place_of(error)).startswith(HERE)


def test_an_endless_chain_ends() -> None:
    one, other = ValueError(), ValueError()
    one.__context__, other.__context__ = other, one
    assert place_of(one) is None
    assert frames_of(one).count("ValueError") == 5


def test_frames_have_no_text_and_no_source_line() -> None:
    def fail() -> None:
        try:
            json.loads.__dict__["canary"]
        except KeyError as error:
            raise ValueError("canary") from error

    lines = frames_of(caught(fail)).splitlines()
    file = f'  File "{__file__}", line '
    assert "canary" not in "".join(lines)
    assert all(line.startswith(file) for line in lines if "File" in line)
    assert [line for line in lines if "File" not in line] == [
        "KeyError",
        "which led to:",
        "ValueError",
    ]
    assert lines[-2].endswith(
        "in test_frames_have_no_text_and_no_source_line.<locals>.fail"
    )


def test_texts_are_shown_where_they_are_asked_for() -> None:
    error = caught(lambda: int("canary\n"))
    assert frames_of(error, texts=True).endswith(
        r"ValueError: invalid literal for int() with base 10: 'canary\\n'"
    )


def test_penstock_s_own_texts_are_always_shown() -> None:
    error = caught(lambda: Claim(idle=-1))
    assert "Claim(idle)=-1 is not a duration" in text_of(error)
    assert frames_of(error).endswith(text_of(error))

    class MineError(ConfigurationError):
        """One of the user's own."""

    assert text_of(MineError("canary")) == ""
    assert text_of(MineError("canary"), always=True) == "canary"


def test_a_text_that_raises_is_no_text() -> None:
    class WorseError(ValueError):
        def __str__(self) -> str:
            raise RuntimeError

    assert text_of(WorseError(), always=True) == ""
    assert frames_of(WorseError(), texts=True).endswith("WorseError")


def test_deep_recursion_is_cut_in_the_middle() -> None:
    def deeper(depth: int) -> None:
        if not depth:
            raise ValueError
        deeper(depth - 1)

    lines = frames_of(caught(lambda: deeper(100))).splitlines()
    assert len(lines) == 32
    assert "more frames" in lines[15]


def test_control_characters_of_names_are_escaped() -> None:
    kind = type("Bad\x1b[31m", (ValueError,), {})
    assert "\x1b" not in frames_of(kind())
