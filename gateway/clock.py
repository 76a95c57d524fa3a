"""Times as text."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(seconds: float) -> str:
    """``seconds`` since the epoch as RFC 3339 in UTC with milliseconds: ``2026-01-02T03:04:05.678Z``."""
    whole = int(seconds)
    return _text(whole, int((seconds - whole) * 1000))


@lru_cache(maxsize=16)
def _text(seconds: int, milliseconds: int) -> str:
    """Under load there are several in one millisecond."""
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
