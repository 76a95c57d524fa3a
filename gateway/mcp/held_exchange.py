"""What requests under way have in common, over either transport: how they are held while the client is asked something."""

from __future__ import annotations

from gateway.mcp.exchange import Ticket
from gateway.mcp.messages import Params
from gateway.mcp.places import Place
from gateway.mcp.time_limit import TimeLimit


class HeldExchange:
    """Has a ticket, a place at the upstream, and a time limit."""

    __slots__ = ("_place", "_ticket", "_time")

    def __init__(self, place: Place, ticket: Ticket, time: TimeLimit) -> None:
        self._place = place
        self._ticket = ticket
        self._time = time

    def hold(self) -> None:
        """Take no place, and let no time count."""
        self._place.leave()

    async def resume(self, params: Params) -> None:
        """Go on. Raises UpstreamError."""
        self._ticket.rename(params)
        self._time.begin()
        try:
            with self._time.within():
                await self._place.take()
        except TimeoutError:
            self._leave("timed out")
            raise self._time.passed() from None

    def asked(self, seconds: float) -> None:
        """The client has been asked something."""
        self._time.asked(seconds)
        self._place.lend()

    def answered(self) -> None:
        """The client has answered."""
        if self._time.answered():
            self._place.reclaim()

    def _leave(self, reason: str) -> None:
        """Let go of everything, once."""
        raise NotImplementedError
