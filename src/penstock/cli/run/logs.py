"""Logging of `penstock run`: the format of its lines, or the user's configuration."""

from __future__ import annotations

import importlib
import json
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from penstock.errors import ConfigurationError
from penstock.observe.logs import JsonFormatter

__all__ = ["LogFormat", "Logs"]

_TEXT: Final = "%(asctime)s %(levelname)s [{who}] %(name)s: %(message)s"


class LogFormat(StrEnum):
    """How a log record is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Logs:
    """How a process of `penstock run` logs.

    Attributes:
        level: The log level.
        format: How records are written.
        config: A file with a configuration of logging, which replaces both; empty for
            none.
    """

    level: str = "info"
    format: str = LogFormat.TEXT
    config: str = ""

    def configure(self, who: str) -> None:
        """Configure logging.

        A configuration that exists already stays, unless there is a file.

        Args:
            who: This process, in the lines of the text format.

        Raises:
            ConfigurationError: The file can't be read, or is no configuration.
        """
        if self.config:
            _configure_from(Path(self.config))
            return
        handler = logging.StreamHandler()
        handler.setFormatter(
            JsonFormatter()
            if self.format == LogFormat.JSON
            else logging.Formatter(_TEXT.format(who=who))
        )
        logging.basicConfig(level=self.level.upper(), handlers=[handler])


def _configure_from(path: Path) -> None:
    # Imported here: it imports a server and pickle, which no other command needs.
    configuring = importlib.import_module("logging.config")
    try:
        if path.suffix == ".ini":
            configuring.fileConfig(path, disable_existing_loggers=False)
        else:
            configuring.dictConfig(_load(path))
    # Classes of the user's are called, which may raise anything.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(
            f"--log-config {path}: {reason}; pass a file for logging.config: .json or "
            f".yaml with a dictionary for dictConfig, or .ini"
        ) from error


def _load(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".yaml", ".yml"}:
        # Imported by name, because PyYAML need not be installed.
        loaded = importlib.import_module("yaml").safe_load(text)
    else:
        loaded = json.loads(text)
    if not isinstance(loaded, dict):
        raise TypeError("it contains no dictionary")
    # A configuration that says nothing of it must not silence Penstock's own loggers.
    return {"disable_existing_loggers": False, **loaded}
