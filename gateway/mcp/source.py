"""One upstream's place in the catalogue: what it offered last, and when it is asked again.

What was gathered once answers whoever waited for it, also where the upstream said meanwhile that its lists changed: then
it is asked once more, at once; but one that goes on saying so after pauses that grow. Nobody waits for it without end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from gateway.mcp.offers import Offer, Offers
from gateway.mcp.pace import Pace
from gateway.mcp.upstream import Upstream, UpstreamError

log = logging.getLogger("ostiary.mcp")

FRESH_FOR: Final = 60.0
"""Seconds after which a list is gathered again, in the background, when somebody asks for it."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0
NEWS_SECONDS: Final = 1.0
"""So often a list that changes all the time is gathered; somebody may wait to be told of it."""
LONGEST_RETRY: Final = 60.0
"""How long one that is down is left alone at most while nobody asks for its lists."""
RETURN_SECONDS: Final = 0.25
"""How long a list waits for an upstream that was down, to see whether it is back."""
CHANGE_SECONDS: Final = 0.5
"""How long a list waits for an upstream that said that it changed; after that, what was known before has to do."""
PATIENCE: Final = 5.0
"""How long an upstream may take to list everything, at most."""


class Source:
    """Asks its upstream for what it offers, and keeps that."""

    def __init__(
        self,
        upstream: Upstream,
        prefix: str,
        patience: float,
        *,
        offers: Offers,
        monotonic: Callable[[], float],
        on_answer: Callable[[str, Offer], None],
        on_change: Callable[[str], None],
    ) -> None:
        """``patience``: the upstream's time limit, in seconds.

        ``on_answer`` is told each time what it offers, and then ``on_change`` if that is something else than before;
        ``on_change`` also when it is down from now on.
        """
        self.upstream = upstream
        self.prefix = prefix
        self.offer: Offer | None = None
        self.down = False
        """Whether it did not answer when last asked."""
        self.version = 0
        """Grows whenever there is something else to list of it."""
        self._patience = min(patience, PATIENCE)
        self._offers = offers
        self._monotonic = monotonic
        self._on_answer = on_answer
        self._on_change = on_change
        self._gathered_at = 0.0
        self._changes = 0
        """How often it was said that the offer is out of date."""
        self._known_changes = 0
        """How often, when that was asked for which is known."""
        self._pace = Pace(FIRST_PAUSE, NEWS_SECONDS)
        self._pause = FIRST_PAUSE
        self._ask_again_at = 0.0
        """When it may be asked again while it is down."""
        self._retry_after = FIRST_PAUSE
        self._retry: asyncio.TimerHandle | None = None
        """It is asked again by itself then, for who was told that its entries are gone does not ask for them."""
        self._gathering: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None

    def freshen(self) -> float:
        """Have it asked if need be; for how many seconds that is worth waiting (see ``settled``)."""
        now = self._monotonic()
        if self.down:
            if now < self._ask_again_at:
                return 0.0
            self.gather()
            return RETURN_SECONDS
        if self.offer is None:
            self.gather()
            return self._patience
        if self._changes != self._known_changes:
            self._gather_in_time()
            return CHANGE_SECONDS
        if now - self._gathered_at > FRESH_FOR:
            self.gather()
        return 0.0

    async def settled(self, seconds: float) -> None:
        """Wait until it is not being asked any more; where nothing was known, until it was asked once."""
        unknown = self.offer is None
        try:
            async with asyncio.timeout(seconds):
                while self._gathering is not None:
                    await asyncio.wait({self._gathering})
                    if unknown:
                        return
        except TimeoutError:
            return

    def gather(self) -> None:
        """Ask it now, unless it is being asked."""
        self._cancel_timers()
        if self._gathering is None:
            self._gathering = asyncio.get_running_loop().create_task(self._gather())

    def invalidate(self) -> None:
        """What is known is out of date, or so it seems: ask it again, in time."""
        self._changes += 1
        self._gather_in_time()

    def renew(self) -> None:
        """What is known is out of date, by what somebody did here: ask it again, however often that was done."""
        self._pace = Pace(FIRST_PAUSE, NEWS_SECONDS)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self.invalidate()

    async def close(self) -> None:
        """Ask it no more."""
        self._cancel_timers()
        if self._gathering is not None:
            self._gathering.cancel()
            await asyncio.gather(self._gathering, return_exceptions=True)

    def _gather_in_time(self) -> None:
        """Ask it as soon as it may be asked; while it is down, whoever asks for its lists sees to that."""
        now = self._monotonic()
        if self._gathering is not None or self._later is not None or (self.down and now < self._ask_again_at):
            return
        seconds = self._pace.wait(now)
        if seconds > 0:
            self._later = asyncio.get_running_loop().call_later(seconds, self._in_time)
            return
        self._pace.begun(now)
        self.gather()

    def _in_time(self) -> None:
        self._later = None
        self._gather_in_time()

    async def _gather(self) -> None:
        changes = self._changes
        try:
            async with asyncio.timeout(self._patience):
                offer = await self._offers.of(self.upstream, self.prefix)
        except UpstreamError as error:
            self._missed(error.detail)
        except TimeoutError:
            self._missed("it did not list in time")
        except Exception:
            log.exception("the lists of upstream %s cannot be read", self.upstream.name)
            self._missed("its lists cannot be read")
        else:
            self._known_changes = changes
            self._took(offer)
        finally:
            self._gathering = None
        if not self.down and self._changes != self._known_changes:
            self._gather_in_time()

    def _cancel_timers(self) -> None:
        for timer in (self._later, self._retry):
            if timer is not None:
                timer.cancel()
        self._later = self._retry = None

    def _missed(self, detail: str) -> None:
        went_down, self.down = not self.down, True
        self._ask_again_at = self._monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._retry = asyncio.get_running_loop().call_later(self._retry_after, self.gather)
        self._retry_after = min(2 * self._retry_after, LONGEST_RETRY)
        if went_down:
            log.warning("upstream %s is left out: %s", self.upstream.name, detail)
            self.version += 1
            self._on_change(self.upstream.name)

    def _took(self, offer: Offer) -> None:
        name = self.upstream.name
        if self.down:
            log.warning("upstream %s is back", name)
        changed = self.down or self.offer is None or self.offer.digest != offer.digest
        self.offer, self.down = offer, False
        self._pause = self._retry_after = FIRST_PAUSE
        self._gathered_at = self._monotonic()
        self._on_answer(name, offer)
        if changed:
            self.version += 1
            self._on_change(name)
