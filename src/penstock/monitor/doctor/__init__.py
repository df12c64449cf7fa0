"""Checks of a server, its permissions and its streams, for `Collector.examine`."""

from penstock.monitor.doctor.findings import Finding, Level
from penstock.monitor.doctor.roles import Role

__all__ = ["Finding", "Level", "Role"]
