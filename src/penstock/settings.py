"""Settings from environment variables, and from the files that they name.

```python
from penstock import Producer, Router
from penstock.settings import from_env

settings = from_env()
router = Router(settings.url, credentials=settings.credentials)
producer = Producer(settings.url, credentials=settings.credentials)
```
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Collection, Mapping
from typing import Final, TypeVar, overload

import msgspec

from penstock._variables import content, variable
from penstock.credentials import Credentials
from penstock.errors import ConfigurationError

__all__ = ["Settings", "from_env"]

_LOGGER: Final = logging.getLogger("penstock.settings")

# What Penstock's command line, its server for tests and its worker processes read.
_OTHERS: Final = frozenset(
    f"PENSTOCK_{name}"
    for name in (
        *("ALLOWED_HOST", "ALLOW_WRITES", "APP_DIR", "BATCH", "CONSOLE_TOKEN"),
        *("EMBEDDED_SERVER", "FACTORY", "FORMAT", "GRACE", "GROUP", "HANG_TIMEOUT"),
        *("HOST", "INTERVAL", "LOG_CONFIG", "LOG_ERRORS", "LOG_FORMAT", "LOG_LEVEL"),
        *("MAX_AGE", "MAX_LEN", "MAX_QUEUE", "MAX_SERIES", "METRICS", "NO_CONSUMERS"),
        *("PER_SHARD", "PORT", "PUSH", "QUEUE", "READY_FILE", "RELAY_SETTINGS"),
        *("RELOAD", "RELOAD_DIR", "ROOT_PATH", "RUN_URL", "SHOW_PAYLOADS", "STREAM"),
        *("TEST_URL", "TO_STREAM", "TO_URL", "TRACEBACKS", "UNTIL_CAUGHT_UP", "UVLOOP"),
        *("WORKER", "WORKERS"),
    )
)


class Settings(msgspec.Struct, kw_only=True):
    """The server, and how to log in there.

    A subclass may have further fields, of any types that msgspec reads from text:
    numbers, booleans, enums, dates.

    Attributes:
        url: The server, as for `Consumer`; None: their default.
        username: The user; None: the one in the URL, or the server's default user.
        password: The password; None: the one in the URL, or in `password_file`.
        password_file: A file that has the password. It is read again for each
            connection, so a password that rotates needs no restart.

    Example:
        ```python
        from penstock.settings import Settings, from_env

        class Shop(Settings, kw_only=True):
            max_orders: int = 100

        settings = from_env(Shop, prefix="SHOP_")  # SHOP_URL, SHOP_MAX_ORDERS
        ```
    """

    url: str | None = None
    username: str | None = None
    password: str | None = None
    password_file: str | None = None

    @property
    def credentials(self) -> Credentials | None:
        """What to pass as `credentials`; None if there is neither user nor password.

        Raises:
            ConfigurationError: There is a user without a password.
        """
        user, password, file = self.username, self.password, self.password_file
        if file is None and password is None:
            if user is not None:
                raise ConfigurationError(
                    "there is a user name and no password; set the password, or a file "
                    "that has it"
                )
            return None

        async def log_in() -> str | tuple[str, str]:
            secret = password or ""
            if file is not None:
                secret = content(file, "password_file")
            return secret if user is None else (user, secret)

        return log_in

    def __repr__(self) -> str:
        # A URL may have a password, and a subclass may have other secrets.
        names = ", ".join(
            name for name in self.__struct_fields__ if getattr(self, name)
        )
        return f"<{type(self).__name__} with {names or 'no values'}>"


S = TypeVar("S", bound=Settings)


@overload
def from_env(
    *, prefix: str = ..., environ: Mapping[str, str] | None = ...
) -> Settings: ...
@overload
def from_env(
    kind: type[S], *, prefix: str = ..., environ: Mapping[str, str] | None = ...
) -> S: ...
def from_env(
    kind: type[Settings] = Settings,
    *,
    prefix: str = "PENSTOCK_",
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read settings from environment variables.

    The variable of a field is the prefix and the field's name in capitals:
    `PENSTOCK_URL`. Each may be replaced by the same name with `_FILE` behind it, which
    names a file that has the value. White space at both ends of a value is removed. An
    empty variable counts as unset.

    Variables that have the prefix and are not known are reported as a warning of the
    logger `penstock.settings`, with the name that may have been meant.

    Args:
        kind: The type of the settings, a subclass of `Settings`.
        prefix: What the names of the variables begin with.
        environ: The variables; default: those of this process.

    Raises:
        ConfigurationError: A value can't be read as the field's type, a field without a
            default has no variable, a file can't be read, or a variable is set in both
            ways.

    Example:
        ```python
        from penstock.settings import from_env

        settings = from_env()
        async with Producer(settings.url, credentials=settings.credentials) as producer:
            ...
        ```
    """
    variables = os.environ if environ is None else environ
    names = {field: prefix + field.upper() for field in kind.__struct_fields__}
    _warn_of_unknown(variables, prefix, names.values())
    found = {
        field: variable(name, variables)
        for field, name in names.items()
        if field != "password_file"
    }
    if file := variables.get(names["password_file"], ""):
        # It was just read, so a file that is missing is found now.
        found |= {"password": None, "password_file": file}
    values = {field: value for field, value in found.items() if value is not None}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_what_is_wrong(error, kind, names)) from None


def _what_is_wrong(
    error: msgspec.ValidationError, kind: type[Settings], names: Mapping[str, str]
) -> str:
    """Return which variable can't be read, without its value."""
    if missing := re.search(r"missing required field `(\w+)`", str(error)):
        name = names[missing[1]]
        return f"{name} is not set; set it, or {name}_FILE"
    place = re.search(r"\$\.(\w+)", str(error))
    field = place[1] if place else ""
    wanted = kind.__annotations__.get(field, "its type")
    return f"{names.get(field, 'a variable')} can't be read as {wanted}; correct it"


def _warn_of_unknown(
    variables: Mapping[str, str], prefix: str, names: Collection[str]
) -> None:
    known = {*names, *(f"{name}_FILE" for name in names), *_OTHERS}
    for name in sorted(variables):
        if name.startswith(prefix) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            _LOGGER.warning("the variable %.80s is not known%s", name, hint)
