"""Metrics as plain data: families that processes can send to each other and add up.

`penstock.observe.prometheus` turns them into the text that Prometheus reads.
"""

from __future__ import annotations

from penstock.observe._collecting import Metrics
from penstock.observe._families import Family, Kind, Labels, Sample
from penstock.observe._merging import WorkerMetrics, merge

__all__ = ["Family", "Kind", "Labels", "Metrics", "Sample", "WorkerMetrics", "merge"]
