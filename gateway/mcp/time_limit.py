"""How long a request at an upstream may take; while the client is asked something for it, how long that may take."""

from __future__ import annotations

import asyncio

from gateway.deadline import Deadline
from gateway.mcp.exchange import late
from gateway.mcp.upstream import UpstreamError
from gateway.model import Reason


class TimeLimit:
    """That of one request. The time begins anew with each answer of the client's."""

    __slots__ = ("_loop", "_name", "_timeout", "_unanswered", "_wait", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, timeout: float) -> None:
        """``name``: the upstream's, ``timeout``: its seconds for a request. No time counts before ``begin``."""
        self._loop = loop
        self._name = name
        self._timeout = timeout
        self._when = 0.0
        self._unanswered = 0
        """How many questions the client has not answered."""
        self._wait: Deadline | None = None

    def begin(self) -> None:
        """From now on the upstream's time counts."""
        self._when = self._loop.time() + self._timeout
        self._unanswered = 0

    def within(self) -> Deadline:
        """A block that ends in time; else it raises TimeoutError (see ``passed``)."""
        self._wait = Deadline(self._loop, self._when)
        return self._wait

    def asked(self, seconds: float) -> None:
        """The client has been asked something, and has that many seconds to answer."""
        self._unanswered += 1
        self._move(seconds)

    def answered(self) -> bool:
        """The client has answered; whether there is nothing more to answer."""
        if self._unanswered:
            self._unanswered -= 1
            if not self._unanswered:
                self._move(self._timeout)
        return not self._unanswered

    def passed(self) -> UpstreamError:
        """Whose fault it is that the time is over."""
        if self._unanswered:
            detail = f"The client did not answer what upstream {self._name} asked."
            return UpstreamError(Reason.UPSTREAM_TIMEOUT, detail)
        return late(self._name, self._timeout)

    def _move(self, seconds: float) -> None:
        self._when = self._loop.time() + seconds
        if self._wait is not None:
            self._wait.reschedule(self._when)
