"""Circuit breakers: the calls of an upstream that does not answer fail at once, until it does.

A failed call alone proves little, for a tool may be slow or broken by itself. So after ``SUSPICIOUS`` of them in a row
(timeouts, or an upstream that is not available) the gateway asks the upstream what every server answers at once, and
opens the circuit only where that fails, too. Then it goes on asking, after pauses that grow, until there is an answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from gateway.mcp.eras import Era, as_modern_request
from gateway.mcp.exchange import CAPABILITIES, DISCOVER, Errands
from gateway.mcp.messages import Reply
from gateway.mcp.upstream import GATEWAY, MODERN_GATEWAY, EraChangedError, Upstream, UpstreamError
from gateway.model import Reason

log = logging.getLogger("ostiary.mcp")

SUSPICIOUS: Final = 3
"""So many calls fail in a row before the upstream is asked."""
PATIENCE: Final = 5.0
"""Seconds that it has for its answer."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
_FAILURES: Final = frozenset({Reason.UPSTREAM_UNAVAILABLE, Reason.UPSTREAM_TIMEOUT})


class Breaker:
    """That of one upstream."""

    __slots__ = (
        "_ask_again_at",
        "_doubt_again_at",
        "_errands",
        "_failures",
        "_on_doubt",
        "_probe",
        "_probe_again_at",
        "_upstream",
        "is_open",
    )

    def __init__(self, upstream: Upstream, errands: Errands, on_doubt: Callable[[str], None]) -> None:
        """``on_doubt`` is told the upstream's name where it may have gone, or come back."""
        self._upstream = upstream
        self._errands = errands
        self._on_doubt = on_doubt
        self._failures = 0
        self._doubt_again_at = self._probe_again_at = 0.0
        self._probe: asyncio.Task[None] | None = None
        self._ask_again_at = 0.0
        self.is_open = False
        """Whether its calls are to fail at once."""

    def __repr__(self) -> str:
        return f"<Breaker {self._upstream.name} failures={self._failures} open={self.is_open}>"

    def retry_after(self) -> float:
        """In how many seconds a call is worth another try, while the circuit is open."""
        return max(0.0, self._ask_again_at - asyncio.get_running_loop().time())

    def answered(self) -> None:
        """A call was answered."""
        self._failures = 0

    def failed(self, reason: Reason) -> None:
        """A call was not."""
        if reason not in _FAILURES:
            return
        self._failures += 1
        now = asyncio.get_running_loop().time()
        if reason is Reason.UPSTREAM_UNAVAILABLE and now >= self._doubt_again_at:
            self._doubt_again_at = now + LONGEST_PAUSE
            self._on_doubt(self._upstream.name)
        if self._failures >= SUSPICIOUS and self._probe is None and now >= self._probe_again_at:
            self._probe = self._errands.run(self._until_it_answers())

    async def _until_it_answers(self) -> None:
        name, loop, pause = self._upstream.name, asyncio.get_running_loop(), FIRST_PAUSE
        try:
            while not await self._answers():
                if not self.is_open:
                    self.is_open = True
                    log.warning("upstream %s does not answer: its calls fail at once until it does", name)
                    self._on_doubt(name)
                self._ask_again_at = loop.time() + pause
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            if self.is_open:
                log.warning("upstream %s answers again", name)
                self._on_doubt(name)
        finally:
            self.is_open, self._failures, self._probe = False, 0, None
            self._probe_again_at = loop.time() + LONGEST_PAUSE

    async def _answers(self) -> bool:
        """Whether it answers what every server does; that may be an error."""
        upstream = self._upstream
        try:
            async with asyncio.timeout(PATIENCE):
                if Era.MODERN in upstream.eras:
                    request = upstream.request(MODERN_GATEWAY, DISCOVER, as_modern_request({}, CAPABILITIES))
                else:
                    request = upstream.request(GATEWAY, "ping", {})
                async with request as exchange:
                    while not isinstance(await exchange.receive(), Reply):
                        pass
        except EraChangedError:
            return True  # that is known of what it answered
        except UpstreamError as error:
            return error.reason not in _FAILURES
        except TimeoutError:
            return False
        return True


class Breakers:
    """Those of all upstreams."""

    def __init__(self, upstreams: Iterable[Upstream], on_doubt: Callable[[str], None]) -> None:
        """``on_doubt`` is told the name of an upstream that may have gone, or come back."""
        self._errands = Errands()
        self._breakers = {each.name: Breaker(each, self._errands, on_doubt) for each in upstreams}

    def __getitem__(self, upstream: str) -> Breaker:
        return self._breakers[upstream]

    async def close(self) -> None:
        """Ask no more."""
        await self._errands.close()
