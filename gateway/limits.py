"""Rate limits: pure token buckets. Time is an argument; nothing here waits.

A bucket is one number, the moment at which it will be full again (the generic cell rate algorithm), so a bucket that
is full by now is the same as none, and is dropped.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import Final

MAX_KEYS: Final = 65_536
"""How many buckets are kept apart at a time; beyond that the oldest are taken for full."""
_FIRST_SWEEP: Final = 1024


class TokenBuckets:
    """A bucket for each key. It holds ``burst`` tokens and gets ``rate_per_minute`` new ones; a rate of 0: no limit."""

    def __init__(self, rate_per_minute: float, burst: int) -> None:
        self._interval = 60.0 / rate_per_minute if rate_per_minute > 0 else 0.0
        self._capacity = self._interval * max(1, burst)
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._sweep_at = _FIRST_SWEEP

    def take(self, key: str, now: float) -> float:
        """Take one token: 0.0, or the seconds until there will be one (then nothing is taken)."""
        if not self._interval:
            return 0.0
        full_at = self._full_at.get(key, now)
        after = max(now, full_at) + self._interval
        missing = after - now - self._capacity
        if missing > _ROUNDING:
            return missing
        self._full_at[key] = after
        if len(self._full_at) >= self._sweep_at:
            self._sweep(now)
        return 0.0

    def wait(self, key: str, now: float) -> float:
        """What ``take`` would answer; nothing is taken."""
        full_at = self._full_at.get(key)
        if full_at is None:
            return 0.0
        missing = full_at + self._interval - now - self._capacity
        return missing if missing > _ROUNDING else 0.0

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._full_at)

    def _sweep(self, now: float) -> None:
        for key in [key for key, full_at in self._full_at.items() if full_at <= now]:
            del self._full_at[key]
        if len(self._full_at) >= MAX_KEYS:
            for _ in range(MAX_KEYS // 16):
                self._full_at.popitem(last=False)
        self._sweep_at = min(MAX_KEYS, max(_FIRST_SWEEP, 2 * len(self._full_at)))


_ROUNDING: Final = 1e-9
"""Seconds: less than this is an error of floating-point sums, not a token that is missing."""


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What a limit should count by: an IPv6 address's /64, which is one subscriber's (RFC 6177); others as they are."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
