"""Codecs of types that pydantic reads: models, and types that have them as parts.

This is the only module that imports pydantic. It is imported when the first such type
is used. No error raised here has a text, cause or context of pydantic's, because all of
these may quote the payload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from math import isfinite
from typing import Any, Final, cast, get_args

import msgspec
import pydantic
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import (
    PydanticSerializationError,
    core_schema,
    from_json,
    to_json,
    to_jsonable_python,
)

from penstock._payload_types import PayloadError, all_finite
from penstock.errors import ConfigurationError

__all__ = ["PydanticJson", "PydanticMsgpack", "adapter_of", "encode_untyped"]

_OLDEST: Final = (2, 11)
_NOT_FINITE: Final = (
    "a payload of type {} contains NaN or an infinity, which JSON can't hold; replace "
    "it, or use msgpack_codec"
)
# Parts of a schema that say nothing about what is decoded from JSON.
_ASIDE: Final = {
    "cls",
    "computed_fields",
    "config",
    "metadata",
    "python_schema",
    "serialization",
    "strict_schema",
}
# Functions that may turn what was decoded into anything.
_FUNCTIONS: Final = {"function-before", "function-plain", "function-wrap"}
_OBJECTS: Final = {"callable", "is-instance", "is-subclass"}
# The types of pydantic's own errors. A validator may raise one of any other type.
_ERRORS: Final = frozenset(get_args(core_schema.ErrorType))
_MOST_ERRORS: Final = 1000
# Written as they are read: by their aliases, without computed fields.
_ROUND_TRIP: Final[dict[str, Any]] = {"by_alias": True, "round_trip": True}


def adapter_of(kind: Any) -> pydantic.TypeAdapter[Any]:
    """Return pydantic's adapter of a type.

    Raises:
        ConfigurationError: pydantic can't decode the type, or a part of it; or it is
            too old.
    """
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < _OLDEST:
        raise ConfigurationError(
            f"pydantic {pydantic.VERSION} is too old to read payload={kind!r:.80}; "
            f"install 2.11 or later, or pass a codec of your own as codec="
        )
    why = "an annotation can't be resolved"
    with suppress(NameError):
        try:
            adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(kind)
            adapter.rebuild()  # a model with defer_build has no schema yet
            part = _undecodable(adapter.core_schema)
        except (PydanticUserError, PydanticUndefinedAnnotation, TypeError) as error:
            why = str(error).partition("\n")[0]
        else:
            if part is None:
                return adapter
            why = f"it holds {part}"
    raise ConfigurationError(
        f"payload={kind!r:.80} is not a type that pydantic can decode ({why}); pass a "
        f"codec of your own as codec="
    )


def _undecodable(schema: Any) -> str | None:
    """Return the name of a part that can't be decoded from JSON, or None."""
    if isinstance(schema, list | tuple):
        return next(filter(None, map(_undecodable, schema)), None)
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    if kind in _OBJECTS:
        return str(getattr(schema.get("cls"), "__qualname__", kind))
    if kind in _FUNCTIONS or schema.get("serialization_exclude"):
        return None
    if kind == "chain":  # what follows gets what the first step returns
        return _undecodable(schema["steps"][0])
    parts = [part for name, part in schema.items() if name not in _ASIDE]
    return _undecodable(parts)


class _Names:
    """The names of a type's fields, and whether they are read by their aliases."""

    def __init__(self, schema: Any) -> None:
        self.known: set[str] = set()
        # Whether each field is read under the name under which it is written: by
        # alias, and by its own name.
        self._read_by_alias = self._read_by_name = True
        self._asked = False
        self._collect(schema, {})

    @property
    def by_alias(self) -> bool:
        """Whether fields are written by their aliases.

        They are, unless only those that are written by their own names are read, and
        no model asks for aliases.
        """
        return self._asked or self._read_by_alias or not self._read_by_name

    def _collect(self, schema: Any, config: dict[str, Any]) -> None:
        if isinstance(schema, list | tuple):
            for part in schema:
                self._collect(part, config)
        if not isinstance(schema, dict):
            return
        config = {**config, **(schema.get("config") or {})}
        self._asked |= bool(config.get("serialize_by_alias"))
        for name, field in _fields(schema):
            self._field(name, field, config)
        choices = schema.get("choices")
        if isinstance(choices, dict):
            self.known.update(map(str, choices))
        cls = schema.get("cls")
        if isinstance(cls, type):
            self.known.add(cls.__name__)
        for name, part in schema.items():
            if name not in _ASIDE:
                self._collect(part, config)

    def _field(self, name: str, field: dict[str, Any], config: dict[str, Any]) -> None:
        paths = _paths(field.get("validation_alias"))
        written = field.get("serialization_alias") or name
        self.known.update({name, written})
        self.known.update(str(step) for path in paths for step in path)
        read = {path[0] for path in paths if len(path) == 1}
        if not paths or not config.get("validate_by_alias", True):
            read = {name}
        if config.get("validate_by_name") or config.get("populate_by_name"):
            read.add(name)
        self._read_by_alias &= written in read
        self._read_by_name &= name in read


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the fields that a part of a schema lists, by their names."""
    fields = schema.get("fields") or schema.get("arguments_schema") or ()
    if isinstance(fields, dict):
        named = list(fields.items())
    else:  # a dataclass lists their names, too
        named = [(it["name"], it) for it in fields if isinstance(it, dict)]
    yield from ((name, field) for name, field in named if isinstance(field, dict))


def _paths(alias: Any) -> list[list[int | str]]:
    """Return the places at which a field is read: a name, a path, or several."""
    if alias is None:
        return []
    if isinstance(alias, str):
        return [[alias]]
    return alias if isinstance(alias[0], list) else [alias]


class _PydanticCodec:
    """The common part of the codecs: one type's adapter, and the names in the type."""

    content_type: str

    def __init__(self, kind: Any) -> None:
        self.adapter = adapter_of(kind)
        self._names = _Names(self.adapter.core_schema)
        options = {**_ROUND_TRIP, "by_alias": self._names.by_alias}
        self._strict: dict[str, Any] = {**options, "warnings": "error"}
        self._lenient: dict[str, Any] = {**options, "warnings": "none"}

    def _validated(self, body: bytes) -> Any:
        """Return the payload that is written as JSON.

        Raises:
            PayloadError: It is not of the type.
        """
        try:
            return self.adapter.validate_json(body)
        except pydantic.ValidationError as error:
            why = self._reason(error)
        raise PayloadError(why)  # outside the except block: without a context

    def _reason(self, error: pydantic.ValidationError) -> str:
        """Return the type and place of the first error; its text may quote values."""
        if error.error_count() > _MOST_ERRORS:  # it takes long to list them
            return f"pydantic: {error.error_count()} errors"
        first = error.errors(
            include_url=False, include_context=False, include_input=False
        )[0]
        kind = first["type"] if first["type"] in _ERRORS else "a custom error"
        return f"pydantic: {kind} - at `{self._path(first['loc'])}`"

    def _path(self, place: tuple[int | str, ...]) -> str:
        steps = "".join(
            f"[{step}]"
            if isinstance(step, int)
            else (f".{step}" if step in self._names.known else "[...]")
            for step in place
        )
        return f"${steps}"

    def _tree(self, payload: Any, **options: Any) -> Any:
        return self.adapter.dump_python(payload, mode="json", **options)

    def _dumped(self, payload: Any, dump: Callable[..., Any]) -> Any:
        """Return what a function dumps a payload as.

        What pydantic only warns of is sent if it can be read.

        Raises:
            ConfigurationError: It can't be encoded, or could not be read.
        """
        with suppress(PydanticSerializationError):
            return dump(payload, **self._strict)
        why = "PydanticSerializationError"
        with suppress(PydanticSerializationError):
            body = self.adapter.dump_json(payload, **self._lenient)
            try:
                self.adapter.validate_json(body)
            except pydantic.ValidationError as error:
                why = self._reason(error)
            else:
                return dump(payload, **self._lenient)
        raise ConfigurationError(
            f"a payload of type {type(payload).__name__} can't be encoded ({why}); "
            f"pass what the payload type accepts"
        )


class PydanticJson(_PydanticCodec):
    """Reads and writes JSON as pydantic does."""

    content_type = "application/json"

    def encode(self, payload: Any, /) -> bytes:
        """Return the payload as JSON; raises ConfigurationError if it has none."""
        body = cast("bytes", self._dumped(payload, self.adapter.dump_json))
        if b"null" in body:
            _check_finite(self._tree(payload, **self._lenient), body, payload)
        return body

    def decode(self, data: bytes, /) -> Any:
        """Return the payload; raises PayloadError if it is not of the type."""
        return self._validated(data)


class PydanticMsgpack(_PydanticCodec):
    """Reads and writes MessagePack: the values that pydantic would write as JSON."""

    content_type = "application/vnd.msgpack"

    def encode(self, payload: Any, /) -> bytes:
        """Return the payload as MessagePack; raises ConfigurationError if it can't."""
        tree = self._dumped(payload, self._tree)
        return msgspec.msgpack.encode(tree)

    def decode(self, data: bytes, /) -> Any:
        """Return the payload; raises PayloadError if it is not of the type."""
        # As JSON, because a strict model reads a text as a datetime only from there.
        tree = msgspec.msgpack.decode(data)
        return self._validated(to_json(tree, inf_nan_mode="constants"))


def encode_untyped(payload: Any) -> bytes:
    """Return a payload as JSON that is, or holds, an object of pydantic's.

    Raises:
        ConfigurationError: It can't be encoded.
    """
    kind: Any = type(payload)
    if hasattr(kind, "__pydantic_serializer__"):
        return _codec_of(kind).encode(payload)
    with suppress(PydanticSerializationError):
        body = to_json(payload, inf_nan_mode="null", **_ROUND_TRIP)
        if b"null" in body:
            tree = to_jsonable_python(payload, **_ROUND_TRIP)
            _check_finite(tree, body, payload)
        return body
    raise ConfigurationError(
        f"a payload of type {kind.__name__} can't be encoded as JSON by pydantic; pass "
        f"bytes, or a codec to the producer"
    )


@lru_cache(maxsize=256)
def _codec_of(kind: type) -> PydanticJson:
    return PydanticJson(kind)


def _check_finite(tree: Any, body: bytes, payload: object) -> None:
    """Check that JSON has no null for a number.

    Raises:
        ConfigurationError: It has: the number is NaN or an infinity.
    """
    if all_finite(tree):
        return
    pairs = [(tree, from_json(body))]  # a model may write such numbers as text
    while pairs:
        value, as_json = pairs.pop()
        if isinstance(value, float):
            if as_json is None and not isfinite(value):
                raise ConfigurationError(_NOT_FINITE.format(type(payload).__name__))
        elif isinstance(value, dict) and isinstance(as_json, dict):
            pairs.extend(zip(value.values(), as_json.values(), strict=False))
        elif isinstance(value, list | tuple) and isinstance(as_json, list):
            pairs.extend(zip(value, as_json, strict=False))
