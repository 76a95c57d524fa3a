"""Which log messages a session at a legacy upstream is asked for.

Requests of different clients may meet in one session, and those of one client differ in what they want. So a level is
only ever lowered, and who wants less is passed on less.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from gateway.mcp.eras import at_least
from gateway.mcp.messages import Reply
from gateway.mcp.upstream import EraChangedError, SessionKey, Upstream, UpstreamError

LEVEL_SECONDS: Final = 1.0
"""How long the request that wants a level waits for the server to take it."""


class _Levelled(Protocol):
    """A session."""

    log_level: str | None
    """The level that it was asked for; None: the server's own choice."""


async def ask_for_level(upstream: Upstream, session: _Levelled, key: SessionKey, level: str) -> None:
    """Ask for log messages from that level on, once. A level is a wish: what else is wrong, the next call says.

    Raises EraChangedError.
    """
    if session.log_level is not None and at_least(level, session.log_level):
        return
    session.log_level = level
    try:
        async with (
            asyncio.timeout(LEVEL_SECONDS),
            upstream.request(key, "logging/setLevel", {"level": level}) as exchange,
        ):
            while not isinstance(await exchange.receive(), Reply):
                pass
    except EraChangedError:
        raise
    except (UpstreamError, TimeoutError):
        return
