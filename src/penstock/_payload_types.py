"""Payload types: which library reads a type, and what in it can't be decoded.

msgspec reads a type unless pydantic has to: because a part of it is a model, a pydantic
dataclass or another type of pydantic, or is annotated with a pydantic constraint. Such
a type exists only where pydantic has been imported, so nothing here imports pydantic.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from math import isfinite
from typing import (
    Any,
    Final,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

__all__ = [
    "PayloadError",
    "all_finite",
    "is_pydantic",
    "may_hold_floats",
    "read_by_pydantic",
    "undecodable_part",
]

# What the classes of pydantic's types have: models and types such as `SecretStr`, and
# its dataclasses.
_MARKS: Final = ("__get_pydantic_core_schema__", "__pydantic_validator__")
# The modules of constraints: `Field(gt=0)`, `AfterValidator`, and those of
# `PositiveInt`.
_CONSTRAINTS: Final = {"pydantic", "annotated_types"}


# A float that is NaN or an infinity, in MessagePack; in rare cases something else.
_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")
_pack: Final = msgspec.msgpack.Encoder().encode


class PayloadError(ValueError):
    """Raised by a codec of your own for bytes that it can't decode.

    Its text is logged and kept with the dead letter, so it should say what does not fit
    and where, and must not quote the payload.
    """


def is_pydantic(kind: Any) -> bool:
    """Return whether a class is a model, a dataclass or another type of pydantic."""
    return isinstance(kind, type) and any(hasattr(kind, mark) for mark in _MARKS)


def read_by_pydantic(kind: Any) -> bool:
    """Return whether a type has a part, at any depth, that only pydantic reads."""
    if "pydantic" not in sys.modules:
        return False
    seen: set[int] = set()
    parts = [kind]
    while parts:
        part = parts.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if is_pydantic(part) or _is_constraint(part):
            return True
        parts.extend(_parts(part))
    return False


def _is_constraint(part: Any) -> bool:
    module: str = getattr(type(part), "__module__", None) or ""
    return module.partition(".")[0] in _CONSTRAINTS or hasattr(part, _MARKS[0])


def _parts(kind: Any) -> Iterator[Any]:
    """Yield the parts of a type: arguments, annotations, fields and what it names."""
    yield from get_args(kind)
    yield from getattr(kind, "__metadata__", ())  # of `Annotated`
    origin = get_origin(kind)
    if origin is not None:
        yield origin
    # An alias made by the `type` statement, and a `NewType`.
    for name in ("__value__", "__supertype__"):
        if hasattr(kind, name):
            yield getattr(kind, name)
    if isinstance(kind, TypeVar):
        yield kind.__bound__
    elif _has_fields(kind):
        yield from _hints(kind).values()


def _has_fields(kind: Any) -> bool:
    # pydantic reads no structs and no attrs classes, so these have no part for it.
    return (
        dataclasses.is_dataclass(kind)
        or hasattr(kind, "__total__")  # a TypedDict, of typing_extensions too
        or (isinstance(kind, type) and issubclass(kind, tuple))
    )


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - an evaluated annotation may raise anything
        # The decoder that is made of the type reports the annotation.
        return {}


def undecodable_part(kind: Any) -> type | None:
    """Return a class in a type that msgspec accepts but can't decode, or None.

    msgspec takes any class for a custom type, which it can decode only with a hook.
    """
    for part in _inspected(kind):
        cls: Any = getattr(part, "cls", None)
        if isinstance(part, msgspec.inspect.CustomType):
            if cls is not object:  # which is the same as Any
                return cls  # type: ignore[no-any-return]
        elif is_pydantic(cls):
            return cls  # type: ignore[no-any-return]
    return None


def may_hold_floats(kind: Any) -> bool:
    """Return whether a payload of a type that msgspec reads can have a float in it."""
    parts = list(_inspected(kind))
    return not parts or any(isinstance(part, _OPEN) for part in parts)


_OPEN: Final = (
    msgspec.inspect.AnyType,
    msgspec.inspect.CustomType,
    msgspec.inspect.FloatType,
    msgspec.inspect.RawType,
)


def _inspected(kind: Any) -> Iterator[Any]:
    """Yield the parts of a type as msgspec describes them; none if it can't."""
    try:
        parts: list[Any] = [msgspec.inspect.type_info(kind)]
    except TypeError:  # the decoder knows better whether it reads the type
        return
    seen: set[int] = set()
    while parts:
        part = parts.pop()
        if id(part) in seen:  # a type may have itself as a part
            continue
        seen.add(id(part))
        if isinstance(part, msgspec.inspect.Type):
            yield part
        if isinstance(part, msgspec.Struct):
            parts.extend(getattr(part, name) for name in part.__struct_fields__)
        elif isinstance(part, tuple):
            parts.extend(part)


def all_finite(payload: Any) -> bool:
    """Return whether no number that a payload has as a value is NaN or an infinity.

    MessagePack can hold such numbers, so a payload without their bytes there has none.
    That is far quicker than to look at each value.
    """
    try:
        packed = _pack(payload)
        # The quickest search is for a single byte, and by `find`, not by `in`.
        if packed.find(b"\x7f") < 0 and packed.find(b"\xff") < 0:
            return True
        if _NOT_FINITE.search(packed) is None:
            return True
    except (TypeError, ValueError, OverflowError):
        pass  # for example, an integer above 64 bits
    try:
        return all(map(isfinite, _floats(msgspec.to_builtins(payload))))
    except TypeError:  # a `msgspec.Raw`, whose content is not known
        return False


def _floats(tree: Any) -> Iterator[float]:
    """Yield the numbers in a tree of lists and dicts, but not those in keys."""
    parts = [tree]
    while parts:
        part = parts.pop()
        if isinstance(part, float):
            yield part
        elif isinstance(part, dict):
            parts.extend(part.values())
        elif isinstance(part, list | tuple | set | frozenset):
            parts.extend(part)
