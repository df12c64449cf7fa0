"""Metric families as plain data, which processes can send to each other."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = ["ADDED", "Family", "Kind", "Labels", "Sample"]

Kind: TypeAlias = Literal[
    "counter",
    "gauge",
    "histogram",
    "summary",
    "gaugehistogram",
    "info",
    "stateset",
    "unknown",
]
Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of labels, in the order in which they are shown."""

ADDED: tuple[Kind, ...] = ("counter", "histogram", "summary")
"""The kinds whose samples only grow, and can be added up over processes."""


class Sample(Struct, frozen=True, array_like=True):
    """One number of a family.

    Attributes:
        name: The family's name with the suffix that the kind of number has, such as
            `_total` or `_bucket`.
        labels: The labels; those of a bucket end with `le`, its upper bound.
        value: The number. The counts of buckets include all lower buckets.
    """

    name: str
    labels: Labels
    value: float


class Family(Struct, frozen=True, array_like=True):
    """A metric with all its samples.

    `msgspec.msgpack` encodes it, and decodes `list[Family]`.

    Attributes:
        name: The name, without the suffix `_total` of counters.
        kind: The kind, by its name in the Prometheus client.
        help: A description of one line.
        samples: The numbers.
    """

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...] = ()
