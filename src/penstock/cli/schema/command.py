"""`penstock schema`: prints the JSON schema of a kind of object."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from penstock import ConfigurationError
from penstock.cli._admin_call import near
from penstock.cli._errors import plain_errors
from penstock.cli._output import emit
from penstock.cli.schema.kinds import KINDS, schema_of

__all__ = ["schema"]


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]", help="The kind of object; default: list the kinds."
        ),
    ] = None,
) -> None:
    """Print the JSON schema of what a command prints with --json.

    Fields are only ever added. What is not known is null, durations are seconds, and
    times are in ISO 8601, in UTC.

    Exit status: 0 done; 2 no such kind.
    """
    if kind is None:
        for name, (_, commands) in KINDS.items():
            emit(f"{name}\t{commands}")
        return
    with plain_errors():
        if kind not in KINDS:
            names = near(kind, list(KINDS), "kind")
            raise ConfigurationError(f"{kind!a:.60} is not a kind of object; {names}")
    emit(json.dumps(schema_of(kind), indent=2))
