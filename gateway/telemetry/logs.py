"""The log: one line an event on standard error, where systemd and containers look for it.

A logger for each concern: ``ostiary.errors``, ``.audit``, ``.tls``, ``.mcp``, ``.storage``, ``.admin``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from gateway.clock import rfc3339


class _Line(logging.Formatter):
    """``2026-01-02T03:04:05.678Z WARNING ostiary.mcp: text``. A traceback follows on lines of its own, indented."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = record.getMessage().encode("unicode_escape").decode("ascii")
        line = f"{rfc3339(self._now())} {record.levelname} {record.name}: {message}"
        if record.exc_info:
            line += "\n    " + self.formatException(record.exc_info).replace("\n", "\n    ")
        return line


def start_logging(now: Callable[[], float]) -> None:
    """Send WARNING and above to standard error, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Line(now))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
